"""Alias of ``ita toy make``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["toy", "make", *sys.argv[1:]]))
