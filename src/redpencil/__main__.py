"""`python -m redpencil` is the command `redpencil`."""

import sys

from redpencil.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
