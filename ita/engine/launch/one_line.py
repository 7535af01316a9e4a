"""Reporting user errors as one line on stderr, once for all processes of a job."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ita.engine.launch.place import join_store
from ita.engine.launch.torchrun import torchrun_place
from ita.engine.run_outputs import note_error
from ita.errors import UserError, one_line
from ita.shortages import explain

# Adds to the job's count of processes with a reported error, and returns the count.
CountFailures = Callable[[int], int]
# Exit code once the error is reported.
REPORTED = 1
_STORE_SECONDS = 10.0


@contextmanager
def errors_in_one_line(count_failures: CountFailures | None = None) -> Iterator[None]:
    """Turn a ``UserError`` into one line on stderr, from one process of the job, and exit code 1.

    Later failures of other processes, caused by the loss of their peer, are not reported. Each
    process writes its error to its log file.

    Args:
        count_failures: adds to the job's count; derived from the environment by default.
    """
    count_failures = count_failures or _failure_counter()
    try:
        yield
    except Exception as error:
        text = _message(error) if isinstance(error, UserError) else explain(error)
        if text:
            message = f"error: {one_line(text)}"
            note_error(message)
            if count_failures(1) == 1:
                sys.stderr.write(f"{message}\n")
            raise SystemExit(REPORTED) from error
        note_error(f"error: {type(error).__name__}", error)
        if count_failures(0):
            raise SystemExit(REPORTED) from error
        raise


def _failure_counter() -> CountFailures:
    """Return a failure counter of the job, kept in the store of its launcher."""
    place = torchrun_place()
    if place is None:
        return lambda more: more

    def count_failures(more: int) -> int:
        try:
            store = join_store(place.address, place.port, _STORE_SECONDS)
            return store.add(f"ita/failures/{place.attempt}", more)
        except (RuntimeError, ValueError):  # no reachable store: count this process only
            return more

    return count_failures


def _message(error: UserError) -> str:
    """Message of the error, without the traceback that a data loader worker puts before it."""
    last_line = str(error).strip().rpartition("\n")[2]
    return last_line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
