"""Limits of waiting for other processes, and messages that name the ranks that did not come."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from torch.distributed import DistError, Store

from ita.engine.launch.place import Place
from ita.errors import UserError, reason_of

# How long a rank waits for the others to notice a failure too.
ROLL_CALL_SECONDS = 5.0
_MAX_NAMED = 8
Answer = TypeVar("Answer")


def open_store(place: Place, seconds: float) -> Store:
    """Open the store of a job.

    Raises:
        UserError: it does not answer within ``seconds``, or its port is in use.
    """
    try:
        return place.open_store(seconds)
    except RuntimeError as error:
        where = f"{place.address}:{place.port}"
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"address {where} is in use by another job or its leftover processes; pass another "
                "port or, on one machine, --dist-url auto"
            ) from error
        host = "rank 0" if place.hosts_store else "the launcher"
        raise UserError(
            f"{host} did not answer rank {place.rank} at {where} within {seconds:g} s (--timeout)"
        ) from error


def name_ranks(ranks: Sequence[int], world_size: int) -> str:
    """Name ranks for a message, such as ``rank 1 of 2``."""
    shown = ", ".join(map(str, ranks[:_MAX_NAMED]))
    more = f" and {len(ranks) - _MAX_NAMED} more" if len(ranks) > _MAX_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more} of {world_size}"


@contextmanager
def lost_ranks_named(store: Store, place: Place, timeout: float) -> Iterator[None]:
    """Turn errors of communication, inside the block, into a ``UserError`` that names ranks.

    Args:
        store: of this attempt of the job.
        place: of this process.
        timeout: seconds that a rank waits for others.
    """
    try:
        yield
    except RuntimeError as error:
        # Gloo's errors have no type of their own.
        if not isinstance(error, DistError) and "gloo" not in str(error).lower():
            raise
        reason = reason_of(error)[:200]
        lost = _call_roll(store, place)
        ranks = name_ranks(lost, place.world_size)
        message = f"{ranks} died or did nothing for {timeout:g} s (--timeout)"
        if not lost:
            message = f"the connection between {place.world_size} processes broke"
        raise UserError(f"{message}; --resume continues: {reason}") from error


def within(seconds: float, ask: Callable[[], Answer], default: Answer) -> Answer:
    """Ask a store; after so many seconds, or if its host has ended, return the default.

    A store does not answer, and its own time-out does not end the wait, if its host is stopped.
    """
    answers = [default]

    def answer() -> None:
        with suppress(RuntimeError):
            answers.append(ask())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[-1]


def _call_roll(store: Store, place: Place) -> list[int]:
    """Return the ranks that have not noticed the failure; rank 0 if its store does not answer."""
    return within(2 * ROLL_CALL_SECONDS, partial(_lost_ranks, store, place), [0])


def _lost_ranks(store: Store, place: Place) -> list[int]:
    deadline = time.monotonic() + ROLL_CALL_SECONDS
    store.set(f"present/{place.rank}", "")
    while True:
        lost = [r for r in range(place.world_size) if not store.check([f"present/{r}"])]
        if not lost or time.monotonic() > deadline:
            return lost
        time.sleep(0.1)
