"""``ita datasets prepare coco-semantic``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "prepare", "coco-semantic", *sys.argv[1:]]))
