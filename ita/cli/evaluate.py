"""Evaluate a checkpoint on DATASETS.TEST: the same as ``ita train --eval-only``.

ita evaluate --config-file configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml MODEL.WEIGHTS model.pth
"""  # noqa: E501

import argparse

from ita.cli import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments shared with training, and ``--resume``."""
    train.add_run_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true", help="evaluate the last checkpoint of OUTPUT_DIR"
    )
    parser.set_defaults(run=train.run, eval_only=True, dry_run=False, overwrite=False)
