"""``ita datasets prepare ade20k-full``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "prepare", "ade20k-full", *sys.argv[1:]]))
