"""``ita datasets prepare ade20k``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "prepare", "ade20k", *sys.argv[1:]]))
