"""Alias of ``ita toy demo``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["toy", "demo", *sys.argv[1:]]))
