"""A kernel for notebooks, as `python -m ipykernel_launcher` is one; runs as a fork."""

import sys
import warnings

from ipykernel import kernelapp

if __name__ == "__main__":
    warnings.resetwarnings()  # which are errors in the tests, and none to a user
    del sys.path[0]  # of this file; the kernel begins the path with its own folder
    kernelapp.launch_new_instance()
