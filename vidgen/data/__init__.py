"""Captioned video: sources, decoding, transforms and the input pipeline. Host only, numpy."""
