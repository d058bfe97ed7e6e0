"""Frozen text encoders: prompts in, padded token states out."""
