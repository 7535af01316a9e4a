"""Alias of ``ita toy train-clip``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["toy", "train-clip", *sys.argv[1:]]))
