"""`python -m vidgen` is the `vidgen` command."""

import sys

from vidgen.main import main

if __name__ == "__main__":
    sys.exit(main())
