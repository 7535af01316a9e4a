"""Write the toy world, a small open-vocabulary data set in COCO panoptic's format.

Objects have two words for a name, such as "striped triangle". Training shows every word, but not
every pair: half of the objects of val, half of those of test_all and all of those of test_unseen
are of pairs that training never shows, others in val than in the tests.

Below the folder of DETECTRON2_DATASETS, as ``toy``, it is the data sets toy_train, toy_val,
toy_test_seen, toy_test_unseen, toy_test_all, and with the scenes of the last toy_test_synonyms
(the classes in other words) and toy_test_distractors (further classes, which are in no scene).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.toy import make_toy_dataset
from ita.errors import UserError


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults of options, and the description as it stands."""


def main() -> int:
    """Parse the command line and write the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_HelpFormatter)
    parser.add_argument("out_dir", help="folder to make, for example datasets/toy")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes")
    parser.add_argument("--train", type=int, default=600, help="number of training scenes")
    parser.add_argument("--val", type=int, default=200, help="number of validation scenes")
    parser.add_argument("--test", type=int, default=200, help="number of scenes of each test split")
    parser.add_argument("--size", type=int, default=144, help="longer side of an image, in pixels")
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
