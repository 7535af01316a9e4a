"""Alias of ``ita install-detectron2``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["install-detectron2", *sys.argv[1:]]))
