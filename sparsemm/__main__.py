"""``python -m sparsemm`` is the command line, also below ``python -m torch.distributed.run -m sparsemm``."""

import sys

from sparsemm.cli import main

if __name__ == "__main__":
    sys.exit(main())
