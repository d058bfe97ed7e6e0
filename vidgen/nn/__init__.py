"""Building blocks shared by every network: axes, embeddings, attention, convolutions."""
