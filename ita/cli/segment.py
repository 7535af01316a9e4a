r"""Segment images and videos into classes given as words.

    ita segment photo.jpg --classes "cat, kitten; sofa; wall" --output out/ \
        --config-file configs/... --weights model.pth
    ita segment photos/ clip.mp4 'more/*.png' --classes ade150 --task panoptic --output out/

FILE is an image, a video, a folder of them or a pattern. For each image STEM, the output folder
gets STEM.png, the label map of class indices from 0; STEM_overlay.png, the image with its classes
in color over a legend; and STEM.json, the classes, dominant categories and segments. For a video
these are a folder STEM of label maps, STEM_overlay.mp4, without sound, and STEM.jsonl with a line
per frame. classes.json names the classes of the indices. Without --config-file, the toy model of
the package is used, which knows drawn shapes only.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ita.cli import garbage_collection_paused
from ita.cli.model_options import add_model_arguments, check_model_options, load_predictor
from ita.errors import UserError, one_line

if TYPE_CHECKING:
    import numpy as np

    from ita.classes import ClassList
    from ita.media import SegmentImage
    from ita.predictor import Segmentation

TASKS = ("semantic", "panoptic", "instance")
# Of instances, which Detectron2's demos also use.
MIN_SCORE = 0.5
RUNTIMES = ("torch", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="images, videos, folders, patterns")
    add(
        "--classes",
        required=True,
        metavar="CLASSES",
        help='"cat, kitten; sofa": synonyms separated by commas, classes by semicolons; or the '
        "path of a class list file; or the name of a built-in class list, such as ade150",
    )
    add(
        "--task",
        choices=TASKS,
        default=TASKS[0],
        help="what overlay and JSON show: the class of each pixel (semantic, default), one segment "
        "per thing and per stuff class (panoptic), or things only (instance)",
    )
    add(
        "--things",
        metavar="CLASSES",
        help='"cat; dog": classes of which each object is a segment (default: those of the '
        "benchmark for a built-in class list, else all)",
    )
    add(
        "--min-score",
        type=float,
        metavar="S",
        help=f"lowest score of the segments of --task instance, in 0-1 (default: {MIN_SCORE})",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="output folder")
    add_model_arguments(parser, "; with --runtime onnx the folder of ita export")
    add(
        "--runtime",
        choices=RUNTIMES,
        default=RUNTIMES[0],
        help="library that runs the model: torch (default), or onnx for an exported one",
    )
    add("--json", action="store_true", help="print a line of JSON per file, for other programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment the files one by one; unreadable ones are reported and skipped."""
    with garbage_collection_paused():
        from tqdm import tqdm

        from ita.data.image_files import IMAGE_SUFFIXES, find_files
        from ita.data.videos import VIDEO_SUFFIXES
        from ita.files import write_atomically
        from ita.media import CLASSES_FILE, plan_outputs, segment_file
        from ita.progress import show_progress
        from ita.reports.label_maps import encode_classes_json

    files = find_files(options.files, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    outputs = plan_outputs(files, options.output)
    classes = choose_class_list(options)
    segment = load_model(options, classes)
    write_atomically(options.output / CLASSES_FILE, encode_classes_json(classes))
    failed: list[Path] = []
    # No bar for one file, nor (by None) where there is no terminal.
    bar = tqdm(outputs.items(), unit="file", disable=True if len(outputs) == 1 else None)
    for path, written in bar:
        try:
            described = segment_file(path, written, segment, show_progress)
        except UserError as error:
            bar.clear()
            sys.stderr.write(f"error: {one_line(error)}\n")
            failed.append(path)
            continue
        bar.clear()
        line = ", ".join(map(str, vars(written).values()))
        sys.stdout.write(f"{json.dumps(described) if options.json else f'{path}: {line}'}\n")
        sys.stdout.flush()
    if failed:
        names = "".join(f"\n  {path}" for path in failed) if len(outputs) > 1 else ""
        sys.stderr.write(f"{len(failed)} of {len(outputs)} files could not be segmented{names}\n")
    return int(bool(failed))


def choose_class_list(options: argparse.Namespace) -> "ClassList":
    """Return the classes that the options name, with their things."""
    from dataclasses import replace

    from ita.classes import choose_classes, mark_things
    from ita.data.catalogue import things_of_list

    classes = choose_classes(options.classes)
    if options.things is None:
        return replace(classes, things=things_of_list(classes.name))
    if options.task == TASKS[0]:
        raise UserError("--things needs --task panoptic or --task instance")
    return mark_things(classes, [t.strip() for t in options.things.split(";") if t.strip()])


def load_model(options: argparse.Namespace, classes: "ClassList") -> "SegmentImage":
    """Load the model that the options name, as a function that segments an image."""
    if options.min_score is not None and options.task != "instance":
        raise UserError("--min-score needs --task instance")
    if options.runtime == "onnx":
        return load_exported(options, classes)
    check_model_options(options)
    if options.config_file is None:
        sys.stderr.write("no --config-file: using the toy model, which knows drawn shapes only\n")
    model = load_predictor(options)
    panoptic, instances = options.task == "panoptic", options.task == "instance"
    least = MIN_SCORE if options.min_score is None else options.min_score

    def segment(image: "np.ndarray") -> "Segmentation":
        result = model.segment(image, classes, panoptic=panoptic, instances=instances)
        return result.above(least) if instances else result

    return segment


def load_exported(options: argparse.Namespace, classes: "ClassList") -> "SegmentImage":
    """Load an exported model; see :func:`load_model`."""
    own = {
        "--config-file": options.config_file,
        "--device": options.device,
        "--precision": options.precision != "auto",
        f"--task {options.task}": options.task != TASKS[0],
    }
    if given := [name for name, value in own.items() if value]:
        raise UserError(f"{given[0]} does not apply to --runtime onnx")
    if not options.weights:
        raise UserError("--runtime onnx needs --weights DIR, the folder that ita export wrote")
    from ita.predictor import Segmentation
    from ita.runtime import load_onnx

    model = load_onnx(options.weights)

    def segment(image: "np.ndarray") -> Segmentation:
        return Segmentation(model.segment(image, classes).label_map, classes, image)

    return segment
