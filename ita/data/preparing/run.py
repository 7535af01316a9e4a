"""Preparing the splits of a data set."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ita.data.catalogue import ROOT_VARIABLE
from ita.data.preparing.jobs import Plan, Workers, run_step
from ita.data.preparing.raw import NotDownloadedError
from ita.errors import UserError

SPLITS = ("train", "val")


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
    for split, reason in missing:
        yield f"{split}: skipped, {reason}"
