"""Are the data sets there, complete and readable? A table, what is wrong, and what mends it.

    python tools/check_datasets.py                      every benchmark
    python tools/check_datasets.py a847 pc59 --split val
    python tools/check_datasets.py my_sets.yaml --deep  a set of one's own, every file of it

Exit code 0 if everything that was asked for is ready, else 1.
"""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tabulate import tabulate
from tqdm import tqdm

from ita.data import register_custom
from ita.data.catalogue import CATALOGUE, DatasetRow, datasets_root
from ita.data.checking import Report, check_dataset
from ita.errors import UserError

MAX_PROBLEMS_TOLD = 10
HEADERS = ("data set", "download", "prepared", "images", "annotations", "classes seen", "")


def choose_rows(words: Sequence[str], split: str) -> list[DatasetRow]:
    """The rows that words on the command line mean: names, families such as a847, YAML files.

    Raises:
        UserError: a word that means nothing, or a YAML file that is wrong.
    """
    chosen: list[DatasetRow] = []
    for word in words or sorted({row.family for row in CATALOGUE if row.num_images}):
        if Path(word).suffix in (".yaml", ".yml"):
            chosen += register_custom([word])
            continue
        rows = [row for row in CATALOGUE if word in (row.name, row.family)]
        if not rows:
            known = {name for row in CATALOGUE for name in (row.name, row.family)}
            nearest = difflib.get_close_matches(word, known, n=1)
            families = ", ".join(dict.fromkeys(row.family for row in CATALOGUE))
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are {families}"
            raise UserError(f"unknown data set {word}; {hint}")
        chosen += [row for row in rows if split in ("all", row.split) or word == row.name]
    return list(dict.fromkeys(chosen))


def cells(report: Report) -> tuple[str, ...]:
    """A row of the table."""
    row = report.row
    images = f"{report.num_images:,}" + (f" of {row.num_images:,}" if row.num_images else "")
    there = report.annotations
    listed = ", ".join(kind if there[kind] else f"no {kind}" for kind in there)
    annotations = listed if any(there.values()) else "none"
    seen = f"{len(report.classes)} in {report.num_read:,} read" if report.num_read else ""
    prepared = {True: "yes", False: "no", None: ""}[report.prepared]
    result = "NOT READY" if report.problems else "ready"
    return (row.name, report.download, prepared, images, annotations, seen, result)


def describe(report: Report) -> list[str]:
    """Lines about a set's problems, or about what it lacks."""
    told = [f"  {problem}" for problem in report.problems[:MAX_PROBLEMS_TOLD]]
    if len(report.problems) > len(told):
        told.append(f"  and {len(report.problems) - len(told):,} more")
    if report.problems:
        told.append(f"  -> {report.remedy}")
    told += [f"  note: {note}" for note in report.notes]
    return [f"{report.row.name}:", *told] if told else []


def show_progress(items: Iterable[Any], count: int, title: str) -> Iterable[Any]:
    """A progress bar with a rate, on terminals only."""
    return tqdm(items, total=count, desc=title, unit="image", leave=False, disable=None)


def main() -> int:
    """Parse the command line, check and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="SET", help="a name, such as a847, or YAML file")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="all")
    parser.add_argument(
        "--subset", action="store_true", help="accept fewer images than the complete set has"
    )
    parser.add_argument("--deep", action="store_true", help="read every image and label")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that read (--deep)"
    )
    arguments = parser.parse_args()
    # What loading a set warns of is in the report.
    logging.basicConfig(level=logging.ERROR)
    reports = []
    try:
        for row in choose_rows(arguments.sets, arguments.split):
            reports.append(
                check_dataset(
                    row,
                    subset=arguments.subset,
                    deep=arguments.deep,
                    workers=arguments.workers,
                    progress=show_progress,
                )
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Data sets in {datasets_root()}\n")
    print(tabulate([cells(report) for report in reports], HEADERS))
    for report in reports:
        lines = describe(report)
        if lines:
            print("", *lines, sep="\n")
    return int(any(report.problems for report in reports))


if __name__ == "__main__":
    sys.exit(main())
