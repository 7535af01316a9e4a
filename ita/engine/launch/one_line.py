"""Reporting user errors as one line on stderr, once for all processes of a job."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch.distributed import Store

from ita.engine.launch.place import Place
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
# How long a process waits for the report of another one, and rank 0 for the count of all.
_SECONDS_TO_REPORT = 5.0
_SECONDS_TO_COUNT = 5.0


class Failures:
    """Count of a job's processes with a reported error; the first one reports it.

    Before the processes meet, the first one of each machine does.

    Args:
        add: adds to the count, if the job has one already.
    """

    def __init__(self, add: CountFailures | None = None) -> None:
        self.add = add or _add_on_machine
        self._wait: Callable[[], None] = lambda: None

    def count_alone(self) -> None:
        """Let each process report its error, until there is a store."""
        self.add = lambda more: more

    def count_in(self, store: Store, place: Place) -> None:
        """Count in a store of this attempt of the job from now on."""
        self.add = partial(_add_in, store, place)
        if place.hosts_store and place.rank == 0:
            self._wait = partial(_wait_for_others, store, place.world_size)

    def let_others_count(self) -> None:
        """Wait for the other processes' errors if the count ends with this process."""
        self._wait()


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
                sys.stderr.flush()
                failures.let_others_count()
            raise SystemExit(REPORTED) from error
        note_error(f"error: {type(error).__name__}", error)
        if failures.add(0):
            raise SystemExit(REPORTED) from error
        raise


def _add_on_machine(more: int) -> int:
    place = torchrun_place()
    if not more or not (place.local_rank if place else task_on_machine()):
        return more
    time.sleep(_SECONDS_TO_REPORT)  # launchers stop the others at the first exit
    return more + 1


def _add_in(store: Store, place: Place, more: int) -> int:
    # Without rank 0 and its store, the next process of its machine reports, and one of each other.
    first = place.local_rank == (1 if place.rank == place.local_rank else 0)
    return within(
        _ANSWER_SECONDS, partial(store.add, "failures", more), more if first else more * 2
    )


def _wait_for_others(store: Store, world_size: int) -> None:
    """Wait until the other processes have counted the same error, if they have it."""
    end = time.monotonic() + _SECONDS_TO_COUNT
    while store.add("failures", 0) < world_size and time.monotonic() < end:
        time.sleep(0.1)


def _message(error: UserError) -> str:
    """Message of the error, without the traceback that a data loader worker puts before it."""
    last_line = str(error).strip().rpartition("\n")[2]
    return last_line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
