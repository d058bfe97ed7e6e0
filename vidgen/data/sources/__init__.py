"""Where examples come from: folders, tar shards, ArrayRecord, TFDS, seqio."""
