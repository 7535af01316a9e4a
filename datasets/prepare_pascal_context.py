"""``ita datasets prepare pascal-context``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "prepare", "pascal-context", *sys.argv[1:]]))
