r"""Segment images into classes given as words.

    ita segment photo.jpg --classes "cat, kitten; sofa; wall" --output out/ \
        --config-file configs/... --weights model.pth
    ita segment scenes/ 'more/*.png' --classes "red circle; grass" --output out/

IMAGE is a file, a folder of images or a pattern. For each image, two files are written to the
output folder: its label map of class indices from 0, as PNG, and STEM_overlay.png, the image with
its classes in color over a legend; classes.json names the classes of the indices. Without
--config-file, the toy model of the package is used, which knows drawn shapes only.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ita.cli import garbage_collection_paused
from ita.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ita.classes import ClassList
    from ita.results import LabelMap

RUNTIMES = ("torch", "onnx")
CLASSES_FILE = "classes.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files, folders, patterns")
    add(
        "--classes",
        required=True,
        metavar="CLASSES",
        help='"cat, kitten; sofa": synonyms separated by commas, classes by semicolons; or the '
        "path of a class list file; or the name of a built-in class list, such as ade150",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="output folder")
    add("--config-file", metavar="FILE", help="config of the model (default: the toy model)")
    add(
        "--weights",
        default="",
        metavar="FILE",
        help="checkpoint (default: MODEL.WEIGHTS); with --runtime onnx the folder of ita export",
    )
    add("--device", help="device, such as cuda (default: that of the config)")
    add(
        "--precision",
        default="auto",
        metavar="TYPE",
        help="float32, bfloat16, float16 or auto, the fastest of the device (default: auto)",
    )
    add(
        "--runtime",
        choices=RUNTIMES,
        default=RUNTIMES[0],
        help="library that runs the model: torch (default), or onnx for an exported one",
    )
    add("--json", action="store_true", help="print a line of JSON per image, for other programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment the images one by one; unreadable ones are reported and skipped."""
    with garbage_collection_paused():
        from tqdm import tqdm

        from ita.classes import choose_classes
        from ita.data.image_files import find_images
        from ita.data.reading import read_image
        from ita.files import write_atomically
        from ita.reports.label_maps import (
            describe_label_map,
            encode_classes_json,
            encode_label_png,
        )
        from ita.reports.pictures import draw_segmentation, write_picture

    outputs = plan_outputs(find_images(options.images), options.output)
    classes = choose_classes(options.classes)
    segment = load_model(options)
    write_atomically(options.output / CLASSES_FILE, encode_classes_json(classes))
    failed: list[Path] = []
    # No bar for one image, nor (by None) where there is no terminal.
    bar = tqdm(outputs.items(), unit="image", disable=True if len(outputs) == 1 else None)
    for path, (label_file, overlay_file) in bar:
        try:
            image = read_image(str(path))
            labels = segment(image, classes).label_map
        except UserError as error:
            bar.clear()
            sys.stderr.write(f"error: {error}\n")
            failed.append(path)
            continue
        write_atomically(label_file, encode_label_png(labels, len(classes)))
        write_picture(draw_segmentation(image, labels, classes.names), overlay_file)
        line = f"{path}: {label_file}, {overlay_file}"
        if options.json:
            files = {"image": path, "label_map": label_file, "overlay": overlay_file}
            described = describe_label_map(labels, classes.names)
            line = json.dumps({**{k: str(v) for k, v in files.items()}, **described})
        bar.clear()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if failed:
        names = "".join(f"\n  {path}" for path in failed) if len(outputs) > 1 else ""
        sys.stderr.write(f"{len(failed)} of {len(outputs)} images could not be read{names}\n")
    return int(bool(failed))


def load_model(
    options: argparse.Namespace,
) -> "Callable[[np.ndarray, ClassList], LabelMap]":
    """Load the model that the options name.

    Returns:
        Function of an image, uint8 RGB [H, W, 3], and classes.
    """
    if options.runtime == "onnx":
        own = {"--config-file": options.config_file, "--device": options.device}
        own["--precision"] = options.precision != "auto"
        if given := [name for name, value in own.items() if value]:
            raise UserError(f"{given[0]} does not apply to --runtime onnx")
        if not options.weights:
            raise UserError("--runtime onnx needs --weights DIR, the folder that ita export wrote")
        from ita.runtime import load_onnx

        return load_onnx(options.weights).segment
    if options.config_file is None and options.weights:
        raise UserError("--weights needs the --config-file of its model")
    if options.config_file is None:
        sys.stderr.write("no --config-file: using the toy model, which knows drawn shapes only\n")
    with garbage_collection_paused():
        from ita.predictor import load

    model = load(options.config_file, options.weights, options.device, precision=options.precision)
    return model.segment


def plan_outputs(images: Sequence[Path], folder: Path) -> dict[Path, tuple[Path, Path]]:
    """Label map and overlay of each image.

    Raises:
        UserError: an output is an input, or the output of two images.
    """
    outputs = {p: (folder / f"{p.stem}.png", folder / f"{p.stem}_overlay.png") for p in images}
    inputs = {path.resolve(): path for path in images}
    writers: dict[Path, Path] = {}
    for image, files in outputs.items():
        for file in files:
            if file.resolve() in inputs:
                raise UserError(f"{file} would replace an image; choose another --output")
            if (other := writers.setdefault(file, image)) is not image:
                raise UserError(
                    f"{other} and {image} would write the same file {file}; segment them into "
                    "different folders"
                )
    return outputs
