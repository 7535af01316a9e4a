"""Install Detectron2 and panopticapi, unless they are already importable.

    ita install-detectron2                   download them from PyPI
    ita install-detectron2 --wheel-dir DIR   use files downloaded elsewhere

PyPI has no release of Detectron2, and none of panopticapi for numpy 2. The command extracts their
Python source from two third-party wheels on PyPI and verifies their SHA-256.
"""

import argparse
import logging
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--wheel-dir", type=Path, metavar="DIR", help="folder of the wheels (default: download)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Install the missing packages."""
    from ita.installing import SOURCES, install_missing

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    install_missing(SOURCES, options.wheel_dir)
    return 0
