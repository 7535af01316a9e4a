"""Write a small synthetic data set in COCO panoptic's format.

Below the folder of DETECTRON2_DATASETS, as ``toy``, it is the data sets toy_train and toy_val.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.toy import make_toy_dataset
from ita.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("out_dir", help="folder to make, for example datasets/toy")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes")
    parser.add_argument("--train", type=int, default=64, help="number of training scenes")
    parser.add_argument("--val", type=int, default=24, help="number of validation scenes")
    parser.add_argument("--size", type=int, default=128, help="longer side of an image, in pixels")
    arguments = vars(parser.parse_args())
    try:
        folder = make_toy_dataset(arguments.pop("out_dir"), **arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"the toy data set is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
