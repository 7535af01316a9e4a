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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ita.cli import garbage_collection_paused
from ita.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ita.classes import ClassList
    from ita.results import Segmentation

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

    outputs = plan_outputs(find_images(options.images), options.output)
    classes = choose_classes(options.classes)
    segment = load_model(options)
    failed: list[Path] = []
    done = 0
    # Nothing on a screen for one image, or where nobody looks.
    bar = tqdm(outputs.items(), unit="image", disable=True if len(outputs) == 1 else None)
    for path, files in bar:
        try:
            image = read_image(str(path))
            result = segment(image, classes)
        except UserError as error:
            bar.clear()
            sys.stderr.write(f"error: {error}\n")
            failed.append(path)
            continue
        if not done:
            write_atomically(options.output / CLASSES_FILE, encode_classes(result))
        write_result(image, result, files)
        done += 1
        bar.clear()
        line = json.dumps(describe(path, result, files)) if options.json else None
        sys.stdout.write(f"{line or f'{path}: ' + ', '.join(map(str, files))}\n")
        sys.stdout.flush()
    if failed:
        names = "".join(f"\n  {path}" for path in failed) if len(outputs) > 1 else ""
        sys.stderr.write(f"{len(failed)} of {len(outputs)} images could not be read{names}\n")
    return int(bool(failed))


def load_model(
    options: argparse.Namespace,
) -> "Callable[[np.ndarray, ClassList], Segmentation]":
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


def write_result(image: "np.ndarray", result: "Segmentation", files: tuple[Path, Path]) -> None:
    """Write the label map and the overlay of an image."""
    from ita.files import write_atomically
    from ita.reports.label_maps import encode_label_png
    from ita.reports.pictures import draw_segmentation, write_picture

    label_file, overlay_file = files
    write_atomically(label_file, encode_label_png(result.label_map, len(result.names)))
    write_picture(draw_segmentation(image, result.label_map, result.names), overlay_file)


def encode_classes(result: "Segmentation") -> bytes:
    """Encode the names and colors of all classes as JSON."""
    from ita.classes import palette

    classes = result.class_list.classes
    rows: Iterable[dict[str, Any]] = (
        {"index": index, "name": names[0], "synonyms": list(names[1:]), "color": list(color)}
        for index, (names, color) in enumerate(zip(classes, palette(len(classes)), strict=True))
    )
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return f"[\n{lines}\n]\n".encode()


def describe(path: Path, result: "Segmentation", files: tuple[Path, Path]) -> Mapping[str, Any]:
    """Describe the result of an image: its files, and the classes found, largest first."""
    import numpy as np

    pixels = np.bincount(result.label_map.ravel(), minlength=len(result.names))
    found = [int(i) for i in np.argsort(-pixels, kind="stable") if pixels[i]]
    return {
        "image": str(path),
        "label_map": str(files[0]),
        "overlay": str(files[1]),
        "height": result.label_map.shape[0],
        "width": result.label_map.shape[1],
        "classes": [{"index": i, "name": result.names[i], "pixels": int(pixels[i])} for i in found],
    }


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
