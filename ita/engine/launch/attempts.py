"""What a restarted job needs: a fresh part of the launcher's store, and whether it is one.

The store of torchrun's agent outlives an attempt, with all that its processes wrote. PyTorch's
groups read it without a name for the attempt, so that a process finds the address of a dead one
and waits for it until its time-out (docs/scale.md).
"""

import time
import uuid
from collections.abc import Sequence
from datetime import timedelta

from detectron2.utils import comm
from torch.distributed import Store

from ita.engine.launch.place import Place, join_store
from ita.engine.launch.waiting import name_ranks
from ita.errors import UserError

_POLL_SECONDS = 0.02
_STORE_SECONDS = 10.0
# Key of torchrun's store, which outlives an attempt.
_BEGUN = "ita/begun"


def agree_on_attempt(store: Store, rank: int, world_size: int, seconds: float) -> str:
    """Return a name for this attempt of a job, the same in all processes and never used before.

    Rank 0 draws the name. It answers each other rank under a key that this rank has drawn, so what
    earlier attempts left in the store is never taken for an answer.

    Raises:
        UserError: a rank does not start within ``seconds``.
    """
    if rank == 0:
        return _answer_all(store, world_size, seconds)
    own = uuid.uuid4().hex
    store.set(f"ita/question/{rank}", own)
    try:
        store.wait([f"ita/answer/{own}"], timedelta(seconds=seconds))
    except RuntimeError as error:
        raise UserError(_not_started([0], world_size, seconds)) from error
    attempt = store.get(f"ita/answer/{own}").decode()
    store.set(f"ita/{attempt}/joined/{rank}", "")
    return attempt


def _answer_all(store: Store, world_size: int, seconds: float) -> str:
    attempt, answered = uuid.uuid4().hex, dict[int, bytes]()
    waiting = set(range(1, world_size))
    deadline = time.monotonic() + seconds
    while waiting:
        for rank in sorted(waiting):
            question = f"ita/question/{rank}"
            if store.check([f"ita/{attempt}/joined/{rank}"]):
                waiting.discard(rank)
            elif store.check([question]) and store.get(question) != answered.get(rank):
                answered[rank] = store.get(question)
                store.set(f"ita/answer/{answered[rank].decode()}", attempt)
        if waiting and time.monotonic() > deadline:
            raise UserError(_not_started(sorted(waiting), world_size, seconds))
        time.sleep(_POLL_SECONDS)
    return attempt


def _not_started(ranks: Sequence[int], world_size: int, seconds: float) -> str:
    return f"{name_ranks(ranks, world_size)} did not start within {seconds:g} s (--timeout)"


def is_restarted(place: Place | None) -> bool:
    """Whether an earlier attempt of this job has begun its run; called in every process.

    Args:
        place: place of the process in the job; None without a launcher that restarts.
    """
    if place is None:
        return False
    restarted = False
    if comm.is_main_process():
        restarted = place.attempt > 0 if place.hosts_store else _store(place).check([_BEGUN])
    return any(comm.all_gather(restarted))


def mark_begun(place: Place | None) -> None:
    """Note that what is in the run's folder from now on is of this job; on the main process."""
    if place is not None and not place.hosts_store:
        _store(place).set(_BEGUN, "")


def _store(place: Place) -> Store:
    return join_store(place.address, place.port, _STORE_SECONDS)
