"""Sprite videos: a learnable, captioned video set that ships with the package."""
