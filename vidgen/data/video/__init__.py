"""Video files: decoding, encoding, orientation, frame times, pixel transforms."""
