"""The place of a process in a job, and the store through which its processes find each other."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from detectron2.config import CfgNode
from torch.distributed import Store, TCPStore

# Main of a process; returns its exit code, None for 0.
Main = Callable[[CfgNode, argparse.Namespace], int | None]


@dataclass(frozen=True)
class Place:
    """Place of a process in a job whose processes another program started.

    Attributes:
        rank: number of the process in the job.
        world_size: number of processes of the job.
        local_rank: number of the process on its machine.
        local_size: number of processes on each machine.
        device: number of the GPU, of those that the process sees.
        address: host of the job's store.
        port: port of the store.
        hosts_store: whether rank 0 hosts the store, rather than the launcher.
        option: option of the launcher with the number of processes on a machine, for messages.
        attempt: how often the launcher, whose store outlives an attempt, has restarted the job.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    device: int
    address: str
    port: int
    hosts_store: bool
    option: str
    attempt: int = 0

    def open_store(self, seconds: float) -> Store:
        """Open the job's store; on rank 0, host it if the launcher does not.

        Raises:
            RuntimeError: it does not answer within ``seconds``.
        """
        return TCPStore(
            self.address,
            self.port,
            is_master=self.hosts_store and self.rank == 0,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )


def join_store(address: str, port: int, seconds: float) -> Store:
    """Open a store that another process hosts.

    Raises:
        RuntimeError: it does not answer within ``seconds``.
    """
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))
