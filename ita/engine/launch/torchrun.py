"""Processes that ``torchrun`` started, on one machine or more, with or without restarts."""

import os

from ita.engine.launch.place import Place

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def torchrun_place() -> Place | None:
    """Return this process's place in torchrun's environment variables; None without them."""
    if not os.environ.keys() >= set(_VARIABLES):
        return None
    rank, local_rank, world_size, local_size = (int(os.environ[name]) for name in _VARIABLES[:4])
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_size=local_size,
        device=local_rank,
        address=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
        hosts_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        option="torchrun --nproc-per-node",
        attempt=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
