"""Compare ITA with its parts left out and with FC-CLIP on the toy world."""

import sys

from comparison.command import main

if __name__ == "__main__":
    sys.exit(main())
