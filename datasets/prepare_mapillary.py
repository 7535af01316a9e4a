"""``ita datasets prepare mapillary``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["datasets", "prepare", "mapillary", *sys.argv[1:]]))
