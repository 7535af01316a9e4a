"""``python -m ita``: the same as the command ``ita``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main())
