"""Imagen Video (arXiv 2210.02303): the space-time U-Net and the diffusion stages built on it."""
