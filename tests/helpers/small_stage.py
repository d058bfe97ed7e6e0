"""A configuration that makes a stage of Imagen small enough to train in a test."""

SMALL = """# Defines: Requires: Often overridden:
from __gin__ import dynamic_registration
from vidgen import types
from vidgen.diffusion import samplers
from vidgen.imagen import blocks
from vidgen.imagen import unet
from vidgen.train import callbacks
from vidgen.text import byte_encoder

TEXT_ENCODER = @byte_encoder.ByteEncoder()
byte_encoder.ByteEncoder.dim = 8
byte_encoder.ByteEncoder.length = 12

base/types.VideoShape:
  frames = 4
  height = 8
  width = 8
base/samplers.SamplerSpec.steps = 2
base/unet.VideoUNet:
  levels = (@base/level0/blocks.LevelSpec(),)
  patch = 1
  cond_width = 16
  cond_layers = 1
base/level0/blocks.LevelSpec:
  width = 8
  head_dim = 8
  text = "attention"
  temporal = "attention+conv"
"""
