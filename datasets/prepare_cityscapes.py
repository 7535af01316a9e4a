"""``ita datasets prepare cityscapes``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "prepare", "cityscapes", *sys.argv[1:]]))
