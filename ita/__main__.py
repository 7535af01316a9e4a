"""Entry point of ``python -m ita``, equivalent to the ``ita`` command."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main())
