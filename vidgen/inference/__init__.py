"""Trained stages loaded from disk, and prompts to videos."""
