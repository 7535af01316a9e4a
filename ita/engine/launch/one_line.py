"""Reporting user errors as one line on stderr, once for all processes of a job."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch.distributed import DistNetworkError, Store

from ita.engine.launch.slurm import task_on_machine
from ita.engine.launch.torchrun import torchrun_place
from ita.engine.launch.waiting import within
from ita.engine.run_outputs import note_error
from ita.errors import UserError, one_line
from ita.shortages import explain

# Adds to the job's count of processes with a reported error, and returns the count.
CountFailures = Callable[[int], int]
# Exit code once the error is reported.
REPORTED = 1
_ANSWER_SECONDS = 5.0


class Failures:
    """Count of a job's processes with a reported error; the first one reports it.

    Before the processes have met, the first one of each machine does.

    Args:
        add: adds to the count, if the job has one already.
    """

    def __init__(self, add: CountFailures | None = None) -> None:
        self.add = add or _add_on_machine

    def count_in(self, store: Store) -> None:
        """Count in a store of this attempt of the job from now on."""
        self.add = partial(_add_in, store)


@contextmanager
def errors_in_one_line(add: CountFailures | None = None) -> Iterator[Failures]:
    """Turn a ``UserError`` into one line on stderr, from one process of the job, and exit code 1.

    Later failures of other processes, caused by the loss of their peer, are not reported. Each
    process writes its error to its log file.

    Args:
        add: see :class:`Failures`.
    """
    failures = Failures(add)
    try:
        yield failures
    except Exception as error:
        text = _message(error) if isinstance(error, UserError) else explain(error)
        if text:
            message = f"error: {one_line(text)}"
            note_error(message)
            if failures.add(1) == 1:
                sys.stderr.write(f"{message}\n")
            raise SystemExit(REPORTED) from error
        note_error(f"error: {type(error).__name__}", error)
        if failures.add(0):
            raise SystemExit(REPORTED) from error
        raise


def _add_on_machine(more: int) -> int:
    place = torchrun_place()
    local_rank = place.local_rank if place else task_on_machine()
    return more + 1 if more and local_rank else more


def _add_in(store: Store, more: int) -> int:
    def add() -> int:
        try:
            return store.add("failures", more)
        except DistNetworkError:  # rank 0 has hosted it, and has ended
            return _add_on_machine(more)

    return within(_ANSWER_SECONDS, add, more)


def _message(error: UserError) -> str:
    """Message of the error, without the traceback that a data loader worker puts before it."""
    last_line = str(error).strip().rpartition("\n")[2]
    return last_line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
