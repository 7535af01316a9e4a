"""Alias of ``ita datasets check``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "check", *sys.argv[1:]]))
