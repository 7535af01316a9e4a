"""The command line that all ``datasets/prepare_*.py`` share."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ita.data.locate import ROOT_VARIABLE, datasets_root
from ita.data.preparing.jobs import Plan, Workers, run_step
from ita.data.preparing.raw import NotDownloadedError
from ita.errors import UserError

SPLITS = ("train", "val")


def main(
    description: str, plan: Callable[[Path, str], Plan], arguments: Sequence[str] | None = None
) -> int:
    """Prepare a data set as the command line says.

    Args:
        plan: root and split -> what is to be made.
        arguments: of the command line; those of the process if None.

    Returns:
        The exit code.
    """
    options = _parse(description, arguments)
    try:
        for line in prepare(
            plan,
            Path(options.root).expanduser(),
            options.split,
            num_workers=options.workers,
            dry_run=options.dry_run,
        ):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to go on: finished files are kept\n")
        return 130
    return 0


def prepare(
    plan: Callable[[Path, str], Plan],
    root: Path,
    splits: Sequence[str] = (),
    *,
    num_workers: int = 1,
    dry_run: bool = False,
) -> Iterator[str]:
    """Prepare splits of a data set.

    Args:
        splits: those that must be there; if none, those that are there.

    Yields:
        A line about everything that was made, found finished or left out.

    Raises:
        UserError: nothing is there, a raw file is missing or bad, or a file cannot be written.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} is no folder: --root or {ROOT_VARIABLE} names the one that holds all data sets"
        )
    plans, missing = [], []
    # Everything is looked for before anything is written.
    for split in splits or SPLITS:
        try:
            plans.append(plan(root, split))
        except NotDownloadedError as error:
            if splits:
                raise
            missing.append((split, error))
    if not plans:
        raise missing[-1][1]
    with Workers(num_workers) as workers:
        for planned in plans:
            for step in planned.steps:
                yield from run_step(step, workers, dry_run=dry_run)
            yield from planned.notes
    for split, error in missing:
        yield f"{split}: skipped, {error}"


def _parse(description: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        default=str(datasets_root()),
        help=f"folder that holds all data sets (default: {ROOT_VARIABLE}, else datasets)",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        choices=SPLITS,
        default=(),
        help="what to prepare (default: what is downloaded)",
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        default=_cores(),
        help="number of processes (default: the number of cores, here %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be made; write nothing"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes")
    return int(text)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
