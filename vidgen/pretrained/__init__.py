"""Frozen feature networks as pure functions of numpy or JAX parameters, float32 throughout."""
