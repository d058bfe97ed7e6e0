"""vidgen: text to video in JAX, after Imagen Video and Phenaki.

The command line is `vidgen --help`. Importing this package starts no accelerator back end, opens
no connection and needs no optional dependency.
"""

__version__ = "0.1.0"
