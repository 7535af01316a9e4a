r"""Segment images into classes given as words.

    ita segment photo.jpg --classes "cat, kitten; sofa; wall" --output out/ \
        --config-file configs/... --weights model.pth
    ita segment scene.png --classes "red circle; grass" --output out/

For each image IMAGE, two files are written to the output folder: IMAGE.png, a label map of class
indices from 0, and IMAGE_overlay.png, the image with its classes in color over a legend. Without
--config-file, the toy model of the package is used, which knows drawn shapes only.
"""

import argparse
import sys
from pathlib import Path

from ita.cli import garbage_collection_paused
from ita.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    add(
        "--classes",
        required=True,
        metavar="CLASSES",
        help='"cat, kitten; sofa": synonyms separated by commas, classes by semicolons; or the '
        "path of a class list file; or the name of a built-in class list, such as ade150",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="output folder")
    add("--config-file", metavar="FILE", help="config of the model (default: the toy model)")
    add("--weights", default="", metavar="FILE", help="checkpoint (default: MODEL.WEIGHTS)")
    add("--device", help="device, such as cuda (default: that of the config)")
    add(
        "--precision",
        default="auto",
        metavar="TYPE",
        help="float32, bfloat16, float16 or auto, the fastest of the device (default: auto)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment the images one by one; unreadable ones are reported and skipped."""
    with garbage_collection_paused():
        from ita.classes import choose_classes
        from ita.data.reading import read_image
        from ita.files import write_atomically
        from ita.predictor import load
        from ita.reports.label_maps import encode_label_png
        from ita.reports.pictures import draw_segmentation, write_picture

    outputs = plan_outputs(options.images, options.output)
    classes = choose_classes(options.classes)
    if options.config_file is None and options.weights:
        raise UserError("--weights needs the --config-file of its model")
    if options.config_file is None:
        sys.stderr.write("no --config-file: using the toy model, which knows drawn shapes only\n")
    model = load(options.config_file, options.weights, options.device, precision=options.precision)
    failures = 0
    for path, (label_file, overlay_file) in outputs.items():
        try:
            image = read_image(str(path))
            result = model.segment(image, classes)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            failures += 1
            continue
        write_atomically(label_file, encode_label_png(result.label_map, len(result.names)))
        write_picture(draw_segmentation(image, result.label_map, result.names), overlay_file)
        sys.stdout.write(f"{path}: {label_file}, {overlay_file}\n")
    if failures:
        sys.stderr.write(f"{failures} of {len(outputs)} images could not be read\n")
    return int(failures > 0)


def plan_outputs(images: list[Path], folder: Path) -> dict[Path, tuple[Path, Path]]:
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
