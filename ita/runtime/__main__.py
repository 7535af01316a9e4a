r"""Segment an image with a model that ``ita export`` wrote, without PyTorch.

    python -m ita.runtime exported photo.jpg --classes "cat, kitten; sofa" --output labels.png

The label map has class indices from 0, in the colors of ita segment.
"""

import argparse
import sys
from pathlib import Path

from ita.classes import choose_classes
from ita.errors import UserError, one_line
from ita.files import write_atomically
from ita.reports.label_maps import encode_label_png
from ita.runtime import load_onnx


def main() -> int:
    """Run the command line of this process; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ita.runtime",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="DIR", help="folder from ita export")
    add("image", type=Path, metavar="IMAGE", help="image file")
    add("--output", required=True, type=Path, metavar="FILE", help="label map, PNG")
    add("--classes", metavar="CLASSES", help="as in ita segment (default: vocabulary.npz)")
    add("--threads", type=int, default=0, metavar="N", help="threads (default: one per core)")
    options = parser.parse_args()
    try:
        classes = None if options.classes is None else choose_classes(options.classes)
        result = load_onnx(options.model, options.threads).segment(options.image, classes)
        write_atomically(options.output, encode_label_png(result.label_map, len(result.names)))
    except UserError as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 1
    sys.stdout.write(f"{options.output}: {', '.join(result.names)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
