"""``python -m sparsemm.cli``."""

import sys

from sparsemm.cli import main

if __name__ == "__main__":
    sys.exit(main())
