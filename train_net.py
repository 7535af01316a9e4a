"""Train, resume and evaluate: ``ita train``."""

import sys

from ita.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
