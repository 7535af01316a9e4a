"""Compare ITA with ablated variants and FC-CLIP on the toy world."""

import sys

from comparison.command import main

if __name__ == "__main__":
    sys.exit(main())
