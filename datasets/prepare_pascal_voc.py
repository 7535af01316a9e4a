"""``ita datasets prepare pascal-voc``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "prepare", "pascal-voc", *sys.argv[1:]]))
