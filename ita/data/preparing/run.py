"""Preparation of the splits of a data set."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ita.data.catalogue import ROOT_VARIABLE
from ita.data.preparing.jobs import Plan, Workers, run_step
from ita.data.preparing.outputs import is_finished
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
        splits: required splits; if empty, all that were downloaded.

    Yields:
        Lines that report the outputs written, already finished or skipped.

    Raises:
        UserError: no downloaded split, a missing or bad raw file, or a file that cannot be written.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder: --root or {ROOT_VARIABLE} must name the folder of all data "
            "sets"
        )
    plans, missing = [], []
    # All inputs are located before anything is written.
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


def count_remaining(plan: Plan) -> tuple[int, int]:
    """Count the images that a plan prepares, and the files that it would still write."""
    num_images = max((len(step.jobs) for step in plan.steps), default=0)
    unfinished = 0
    for step in plan.steps:
        unfinished += sum(not is_finished(file) for job in step.jobs for file in job.targets)
        unfinished += sum(not file.is_complete() for file in step.json_files)
    return num_images, unfinished
