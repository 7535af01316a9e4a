"""A name for each attempt of a job, under which its processes find each other.

The store of torchrun's agent outlives an attempt, with all that its processes wrote. PyTorch's
groups read it without a name for the attempt, so that a process finds the address of a dead one
and waits for it until its time-out (docs/scale.md).
"""

import time
import uuid
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import Store

from ita.engine.launch.waiting import name_ranks
from ita.errors import UserError

_POLL_SECONDS = 0.02


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
