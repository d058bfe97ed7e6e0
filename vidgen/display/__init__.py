"""What a notebook shows: clips that play, sheets of frames, maps of tokens, curves, metrics."""
