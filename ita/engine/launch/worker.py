"""A process of a job: joins the others, runs, and leaves with them."""

import argparse
import signal
from datetime import timedelta

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import distributed
from torch.distributed import PrefixStore

from ita.engine.launch.attempts import agree_on_attempt
from ita.engine.launch.one_line import Failures
from ita.engine.launch.place import Main, Place
from ita.engine.launch.waiting import lost_ranks_named, open_store
from ita.errors import UserError


def run_worker(
    main: Main,
    cfg: CfgNode,
    args: argparse.Namespace,
    place: Place,
    failures: Failures | None = None,
) -> int:
    """Run a process that a launcher started; see :func:`ita.engine.launch.launch`."""
    on_gpu = uses_gpu(cfg) and torch.cuda.is_available()
    if on_gpu:
        require_gpus(place.device + place.local_size - place.local_rank, place.option)
        torch.cuda.set_device(place.device)
    if failures:
        failures.count_alone()  # it may be that rank 0 is not there
    store = open_store(place, args.timeout)
    if failures:
        failures.count_in(PrefixStore(f"ita/start/{place.attempt}", store), place)
    attempt = agree_on_attempt(store, place.rank, place.world_size, args.timeout)
    store = PrefixStore(f"ita/{attempt}", store)
    if failures:
        failures.count_in(store, place)
    with lost_ranks_named(store, place, args.timeout):
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=args.timeout),
        )
        comm.create_local_process_group(place.local_size)
        code = main(cfg, args) or 0
        leave()
    return code


def leave() -> None:
    """Leave the job; rank 0 may host its store, so no process leaves before all are done."""
    comm.synchronize()
    # srun stops the other tasks at the first exit code that is not 0, such as that of a stop.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    distributed.destroy_process_group()


def uses_gpu(cfg: CfgNode) -> bool:
    """Whether the config requests a GPU."""
    return cfg.MODEL.DEVICE.startswith("cuda")


def require_gpus(count: int, option: str) -> None:
    """Check that ``count`` GPUs are visible, which ``option`` of the launcher requests.

    Raises:
        UserError: there are fewer.
    """
    visible = torch.cuda.device_count()
    if count > visible:
        raise UserError(
            f"{option} {count}, but this machine has {visible} visible GPUs; request at most that "
            f"many, or run {count} processes on the CPU with MODEL.DEVICE cpu"
        )
