"""Check and prepare data sets.

    ita datasets check                          all benchmarks
    ita datasets check a847 pc59 --split val
    ita datasets check my_sets.yaml --deep      custom data sets, reading every file
    ita datasets check --training coco133 --vocabulary my_classes.txt
                                                two class lists: merges, seen and unseen classes
    ita datasets prepare ade20k --help          files to read and write
    ita datasets prepare ade20k

The environment variable DETECTRON2_DATASETS sets the root folder of all data sets (default:
datasets).
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ita.cli.types import positive_int
from ita.data.catalogue import ROOT_VARIABLE, datasets_root, other_names

# Data set -> module of ita.data.preparing, whose docstring describes the preparation, and output.
PREPARED = {
    "ade20k": ("ade20k", "A-150: semantic, panoptic and instance files"),
    "ade20k-full": ("ade20k_full", "A-847: images and label maps"),
    "cityscapes": ("cityscapes", "semantic, panoptic and instance files"),
    "coco-semantic": ("coco", "label maps from the panoptic files (optional)"),
    "mapillary": ("mapillary", "links to v1.2, and missing label maps"),
    "pascal-context": ("pascal_context", "PC-59 and PC-459: label maps"),
    "pascal-voc": ("pascal_voc", "PAS-20 and PAS-21: label maps"),
}
SPLITS = ("train", "val")
# Class list of the data set that models are trained on by default.
TRAINING_LIST = "coco133"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions ``check`` and ``prepare``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="check data sets, and class lists against the training list",
        description="Check that data sets exist, are complete and readable. Prints a table, the "
        "problems and their remedies; then, for each class list, how many classes are seen in "
        "training and which classes the training list merges. Exit code 0 if all selected data "
        "sets are ready, else 1.",
    )
    _add_check_arguments(check)
    check.set_defaults(run=run_check)
    prepare = actions.add_parser("prepare", help="create the files that training reads")
    sets = prepare.add_subparsers(dest="set", metavar="SET", required=True)
    for name, (_, summary) in PREPARED.items():
        parser = sets.add_parser(name, help=summary, aliases=other_names(name), add_help=False)
        _add_prepare_arguments(parser, name)


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sets", nargs="*", metavar="SET", help="name, such as a847, or YAML file")
    add("--split", choices=(*SPLITS, "all"), default="all", help="default: all splits")
    add("--subset", action="store_true", help="accept fewer images than the complete set has")
    add("--deep", action="store_true", help="read every image and label")
    add("--workers", type=positive_int, default=_num_cores(), help="processes to read (--deep)")
    add(
        "--training",
        default=TRAINING_LIST,
        metavar="LIST",
        help="training class list, a file or the name of a packaged one (default: %(default)s)",
    )
    add(
        "--vocabulary",
        action="append",
        metavar="LIST",
        help="class list to compare with it instead of those of the data sets; may be repeated; "
        "without SET, no data set is checked",
    )
    add("--unseen", action="store_true", help="list the names of the unseen classes")


def _add_prepare_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("-h", "--help", action=_PrepareHelp, nargs=0, help="show this help")
    add = parser.add_argument
    add(
        "--root",
        default=str(datasets_root()),
        help=f"root folder of all data sets (default: {ROOT_VARIABLE}, else datasets)",
    )
    add("--split", nargs="+", choices=SPLITS, default=(), help="default: all downloaded splits")
    add(
        "--workers",
        type=positive_int,
        default=_num_cores(),
        help="number of processes (default: the number of cores, here %(default)s)",
    )
    add("--dry-run", action="store_true", help="list the outputs without writing them")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run_prepare, set=name)


class _PrepareHelp(argparse.Action):
    """Print a help whose description is the docstring of the data set's module."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        name = parser.prog.split()[-1]
        parser.description = _preparation(name).__doc__
        parser.print_help()
        parser.exit()


def run_check(options: argparse.Namespace) -> int:
    """Check the data sets and compare the class lists; print the reports."""
    from ita.classes import read_class_list
    from ita.data.checking import check_dataset, choose_rows
    from ita.data.rows import distinct_class_lists
    from ita.reports.coverage import format_coverage
    from ita.reports.readiness import format_problems, format_readiness

    # The report of a data set contains the warnings of loading it.
    logging.basicConfig(level=logging.ERROR)
    training = read_class_list(options.training)
    only_lists = options.vocabulary and not options.sets
    rows = [] if only_lists else choose_rows(options.sets, options.split)
    if options.vocabulary:
        tests = [read_class_list(file) for file in options.vocabulary]
    else:
        tests = distinct_class_lists(rows)
    reports = [
        check_dataset(
            row,
            subset=options.subset,
            deep=options.deep,
            workers=options.workers,
            progress=_show_progress,
        )
        for row in rows
    ]
    if reports:
        sys.stdout.write(f"Data sets in {datasets_root()}\n\n{format_readiness(reports)}\n")
        sys.stdout.write(f"{format_problems(reports)}\n")
    sys.stdout.write(format_coverage(training, tests, list_unseen=options.unseen))
    return int(any(report.problems for report in reports))


def run_prepare(options: argparse.Namespace) -> int:
    """Prepare the data set and print one line per folder."""
    from ita.data.preparing.run import prepare

    try:
        for line in prepare(
            _preparation(options.set).plan,
            Path(options.root).expanduser(),
            options.split,
            num_workers=options.workers,
            dry_run=options.dry_run,
        ):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped; run the same command again to continue: finished files are kept"
        ) from None
    return 0


def _preparation(name: str) -> Any:
    return importlib.import_module(f"ita.data.preparing.{PREPARED[name][0]}")


def _show_progress(items: Iterable[Any], count: int, title: str) -> Iterable[Any]:
    """Show a progress bar with a rate, on terminals only."""
    from tqdm import tqdm

    return tqdm(items, total=count, desc=title, unit="image", leave=False, disable=None)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
