"""Diffusion as arrays in, arrays out: noise schedules, parameterizations, guidance, samplers."""
