"""A tokenizer and a transformer at a size that compiles in seconds, trained by the command."""

from vidgen.cli import main

# Sizes of sizes/tiny_phenaki.gin, 5 frames of 16 x 16 in 3 x 4 x 4 tokens; nothing to download.
SMALL = """# Defines: Requires: Often overridden:
from __gin__ import dynamic_registration
from vidgen.phenaki import maskgit
from vidgen.phenaki import quantizer
from vidgen.text import byte_encoder as bytes_of
TEXT_ENCODER = @bytes_of.ByteEncoder()
bytes_of.ByteEncoder.dim = 8
bytes_of.ByteEncoder.length = 12
tokenizer/quantizer.VectorQuantizer.codes = 16
"""
NETWORK = "maskgit/maskgit.MaskGIT.codes = 16\n"
SHORT = [f"--gin.{name}" for name in ("TRAIN_STEPS=2", "BATCH_SIZE=2", "CHECKPOINT_EVERY=2")]
SHORT += ["--gin.SAMPLE_EVERY=2", "--gin.Train.log_every=1", "--gin.HeldOutLoss.batches=1"]


def run(*arguments):
    assert main.main([str(argument) for argument in arguments]) == 0


def train(folder):
    """Trains `folder`/cvivit and `folder`/maskgit for two steps each."""
    small = folder / "small.gin"
    own = {"cvivit": [], "maskgit": [f"--gin.TOKENIZER_DIR={folder / 'cvivit'}"]}
    for model, flags in own.items():
        small.write_text(SMALL + (NETWORK if model == "maskgit" else ""))
        files = [f"--gin_file=experiments/phenaki_{model}_tiny.gin", f"--gin_file={small}"]
        run("train", *files, *flags, *SHORT, f"--gin.MODEL_DIR={folder / model}")
    return folder
