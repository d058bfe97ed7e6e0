"""Data prepared once for many trainings: clips, encoded captions, video tokens."""
