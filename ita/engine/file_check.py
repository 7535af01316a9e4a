"""Check of all files of a run before it starts (DATALOADER.CHECK_FILES)."""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from detectron2.config import CfgNode
from detectron2.utils import comm

from ita.data.headers import header_problem
from ita.data.loaders import RecordLoader
from ita.data.records import Record
from ita.engine.evaluate import TestSet
from ita.errors import UserError
from ita.progress import no_progress, show_progress

logger = logging.getLogger(__name__)

# Headers that a process waits for at a time, most of which on the disk.
THREADS = 16
# Headers that are requested at once.
CHUNK = 1024
MAX_LINES = 20


def check_files(
    cfg: CfgNode, training: RecordLoader | None, test_sets: Iterable[TestSet] = ()
) -> None:
    """Check the headers of images and labels, and log the problems; called in every process.

    Raises:
        UserError: a bad file of a test set; or one of the training set, unless
            ``DATALOADER.ON_ERROR`` is "skip" and there are not more than ``MAX_BAD_IMAGES``.
    """
    loading, bad = cfg.DATALOADER, []
    if training is not None:
        count = _check("the training set", training.records)
        if count > (loading.MAX_BAD_IMAGES if loading.ON_ERROR == "skip" else 0):
            bad.append(f"{count:,} in the training set")
    for test_set in test_sets:
        if count := _check(test_set.name, test_set.loader.records):
            bad.append(f"{count:,} in {test_set.name}")
    if bad:
        raise UserError(f"bad files: {', '.join(bad)}, see above; mend them")


def _check(name: str, records: Sequence[Record]) -> int:
    """Check the files of a data set, shared by the processes; return the number of problems."""
    world, main = comm.get_world_size(), comm.is_main_process()
    share = range(comm.get_rank(), len(records), world)
    problems: list[str] = []
    shown = (show_progress if main else no_progress)(f"checking {name}", len(records), "images")
    with shown as advance, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(share), CHUNK):
            numbers = share[start : start + CHUNK]
            problems += filter(None, pool.map(partial(_problem, records), numbers))
            advance(world * len(numbers))
    found = [problem for part in comm.all_gather(problems) for problem in part]
    if main:
        for problem in found[:MAX_LINES]:
            logger.warning("%s", problem)
        if len(found) > MAX_LINES:
            logger.warning("and %s more bad files in %s", f"{len(found) - MAX_LINES:,}", name)
    return len(found)


def _problem(records: Sequence[Record], number: int) -> str:
    return header_problem(records[number])
