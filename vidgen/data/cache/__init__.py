"""Text states and video tokens that were computed once and are read in training."""
