"""Alias of ``ita toy train-model``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["toy", "train-model", *sys.argv[1:]]))
