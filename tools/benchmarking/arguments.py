"""Measure time and memory of the model and of what surrounds it.

    python tools/benchmark.py inference --classes 1 20 150 847 10000 --output results.json
    python tools/benchmark.py inference --compare plain      against the plain definitions
    python tools/benchmark.py training --compare ../before   against another checkout
    python tools/benchmark.py plot results.json --output docs/figures/classes.svg

Every row of the table is measured in processes of its own. Models have random weights and images
are noise unless stated otherwise, which changes neither time nor memory. With --compare, the two
sides take turns in every repeat. `WORK --help` lists the options of a work.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarking.cases import AUTO, CACHES, COLD, DISK, PARTS, PASSES, PRECISIONS, TASKS
from ita.cli.types import positive_int

MAIN_CONFIG = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
PLAIN = "plain"
# Work -> summary; the functions of these names in benchmarking/works.py.
WORKS = {
    "inference": "segment images: seconds and memory by size, number of classes and precision",
    "text": "encode class names in all prompts, without and with features in files and in memory",
    "training": "an optimizer step: losses, gradients, clipping, AdamW",
    "attention": "one multi-scale deformable attention with its projections, on an image's levels",
    "loader": "read and augment training images of the data sets below $DETECTRON2_DATASETS",
    "evaluation": "the evaluators, on made-up results for scenes of the toy world",
    "start": "`ita segment` with the toy model in a fresh process, from import to label map",
    "floors": "the parts of a pass beside the speed of matrix products and copies on this machine",
}


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    works = parser.add_subparsers(dest="work", metavar="WORK", required=True)
    parsers = {
        name: works.add_parser(name, help=text, description=f"Measure: {text}.")
        for name, text in WORKS.items()
    }
    _add_own(parsers)
    for name, subparser in parsers.items():
        _add_shared(subparser, name)
    _add_plot(works.add_parser("plot", help="plot time and memory by number of classes as SVG"))
    arguments = parser.parse_args(words)
    for name in ("warm_up", "workers"):
        if min([0, *_values(getattr(arguments, name, 0))]) < 0:
            parser.error(f"--{name.replace('_', '-')} must not be negative")
    return arguments


def _values(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


def _add_own(parsers: dict[str, argparse.ArgumentParser]) -> None:
    """Add the options of each work; a row is measured for every combination of lists."""
    for name in ("inference", "text", "training", "floors"):
        _add_model(parsers[name])
    for name in ("inference", "training", "attention", "evaluation", "floors"):
        _add_list(parsers[name], "--size", 640, positive_int, "side of the images in pixels")
    for name in ("inference", "training", "floors"):
        # "auto", as of `ita segment`, concerns inference only.
        choices = PRECISIONS if name == "training" else (AUTO, *PRECISIONS)
        _add_list(parsers[name], "--precision", "float32", str, "matrix products", choices)
    for name, batch in (("inference", 1), ("training", 2), ("attention", 1)):
        _add_list(parsers[name], "--batch", batch, positive_int, "images at once")
    for name in ("inference", "floors"):
        _add_list(parsers[name], "--classes", 150, positive_int, "number of classes")
    add = parsers["inference"].add_argument
    add("--scores", action="store_true", help="also the scores of all classes at all pixels")
    add("--panoptic", action="store_true", help="also panoptic segments")
    add("--instance", action="store_true", help="also instances")
    add("--image", default="", metavar="FILE", help="image, resized to --size (default: noise)")
    add("--encode-text", action="store_true", help="run the text tower first, which is not timed")
    _add_list(parsers["text"], "--names", 150, positive_int, "number of names")
    _add_list(parsers["text"], "--cache", CACHES, str, "where names are found", CACHES)
    _add_list(parsers["start"], "--cache", (COLD, DISK), str, "where names are found", (COLD, DISK))
    _add_list(parsers["attention"], "--passes", PASSES, str, "with or without gradients", PASSES)
    _add_config(parsers["loader"])
    add = parsers["loader"].add_argument
    _add_list(parsers["loader"], "--workers", 0, int, "0 loads in the measured process itself")
    add("--images", type=positive_int, default=32, help="images of a pass (default: %(default)s)")
    add = parsers["evaluation"].add_argument
    _add_list(parsers["evaluation"], "--task", TASKS, str, "results to evaluate", TASKS)
    add("--images", type=positive_int, default=4, help="images of a pass (default: %(default)s)")
    _add_list(parsers["floors"], "--part", PARTS, str, "what to measure", PARTS)


def _add_list(
    parser: argparse.ArgumentParser,
    name: str,
    default: object,
    kind: type,
    text: str,
    choices: Sequence[str] | None = None,
) -> None:
    """Add an option with one or more values."""
    values = list(default) if isinstance(default, tuple) else [default]
    shown = " ".join(map(str, values))
    metavar = None if choices else "N"
    text = f"{text} (default: {shown})"
    parser.add_argument(
        name, nargs="+", type=kind, default=values, choices=choices, metavar=metavar, help=text
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config-file", default=MAIN_CONFIG, metavar="FILE", help="default: %(default)s")
    add("--override", nargs="+", default=[], metavar="KEY VALUE", help="config keys")


def _add_model(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    add = parser.add_argument
    add("--weights", default="", metavar="FILE", help="checkpoint (default: random weights)")
    add("--device", default="cpu", help="default: %(default)s")


def _add_shared(parser: argparse.ArgumentParser, work: str) -> None:
    """Add the options of every measurement."""
    add = parser.add_argument
    add("--repeats", type=positive_int, default=7, help="timed passes (default: %(default)s)")
    add("--warm-up", type=int, default=2, help="untimed passes before (default: %(default)s)")
    add("--threads", type=positive_int, help="threads of PyTorch (default: its own choice)")
    add("--output", type=Path, metavar="FILE", help="also write all times as JSON")
    # `ita` runs in a process of its own there, and the ceilings of the machine have no other side.
    choice = "" if work in ("start", "floors") else f"'{PLAIN}' for the plain definitions, or "
    add("--compare", metavar="OTHER", help=f"compare with: {choice}the folder of another checkout")


def _add_plot(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("results", nargs="+", type=Path, help="JSON files of `inference` with several --classes")
    add("--output", type=Path, required=True, metavar="FILE", help="SVG to write")
