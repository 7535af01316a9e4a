r"""Export a trained model for use without PyTorch, or with PyTorch alone.

    ita export --output exported
    ita export --output exported --classes "cat, kitten; sofa; wall" \
        --config-file configs/... --weights model.pth
    python -m ita.runtime exported photo.jpg --classes "red arrow; grass" --output labels.png

DIR is a new folder of the model (model.onnx or model.pt2), its text tower (text.*, tokenizer.json),
its settings (model.json) and, with --classes, the features of these classes (vocabulary.npz).
Images may have any size and class lists any length. ONNX needs the libraries of the extra "onnx".
"""

import argparse
import sys
from pathlib import Path

from ita.cli import garbage_collection_paused
from ita.errors import UserError

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="DIR", help="new folder")
    add(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx (default), or torch: a program for torch.export.load",
    )
    add(
        "--classes",
        metavar="CLASSES",
        help='classes to encode into vocabulary.npz: "cat, kitten; sofa", the path of a class list '
        "file, or the name of a built-in class list",
    )
    add("--config-file", metavar="FILE", help="config of the model (default: the toy model)")
    add("--weights", default="", metavar="FILE", help="checkpoint (default: MODEL.WEIGHTS)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load the model and export it."""
    if options.config_file is None and options.weights:
        raise UserError("--weights needs the --config-file of its model")
    if options.output.exists():
        raise UserError(f"{options.output} exists; remove it or choose another name")
    with garbage_collection_paused():
        from ita.classes import choose_classes
        from ita.export.exporting import export_model
        from ita.predictor import load

    classes = None if options.classes is None else choose_classes(options.classes)
    model = load(options.config_file, options.weights, "cpu", precision="float32")
    export_model(model, options.output, FORMATS[options.format], classes)
    for path in sorted(options.output.iterdir()):
        sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:,.1f} MB\n")
    return 0
