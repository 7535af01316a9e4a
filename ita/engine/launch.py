"""Starting the processes of a job, and one line on stderr when something outside is wrong."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed, multiprocessing

from ita.errors import UserError

# Adds to the job's count of processes that failed for a reason already told, and returns it.
CountFailures = Callable[[int], int]
Main = Callable[[CfgNode, argparse.Namespace], None]
# What a process exits with whose error has been told.
TOLD = 1


def launch(main: Main, cfg: CfgNode, args: argparse.Namespace) -> None:
    """Run ``main(cfg, args)`` in every process of the job.

    Under ``torchrun`` this process is one of them, and its environment says which. Otherwise
    Detectron2's launcher starts ``args.num_gpus`` on each of ``args.num_machines``; a single one
    is this process.

    Raises:
        UserError: more processes than GPUs, or an address that is taken.
    """
    if _under_torchrun():
        _run_as_torchrun_worker(main, cfg, args)
    elif args.num_gpus * args.num_machines <= 1:
        main(cfg, args)
    else:
        _spawn(main, cfg, args)


@contextmanager
def errors_in_one_line(count_failures: CountFailures | None = None) -> Iterator[None]:
    """Turn a ``UserError`` into one line on stderr, from one process of the job, and exit code 1.

    What then fails in the other processes, because their peer is gone, is not reported.

    Args:
        count_failures: adds to the job's count; by default found from the environment.
    """
    count_failures = count_failures or _failure_counter()
    try:
        yield
    except UserError as error:
        if count_failures(1) == 1:
            sys.stderr.write(f"error: {_message(error)}\n")
        raise SystemExit(TOLD) from error
    except Exception as error:
        if count_failures(0):
            raise SystemExit(TOLD) from error
        raise


def _under_torchrun() -> bool:
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= os.environ.keys()


def _run_as_torchrun_worker(main: Main, cfg: CfgNode, args: argparse.Namespace) -> None:
    local_rank, local_size = (int(os.environ[k]) for k in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    on_gpu = _wants_gpu(cfg) and torch.cuda.is_available()
    if on_gpu:
        _require_gpus(local_size, "torchrun --nproc-per-node")
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(local_size)
    main(cfg, args)
    _leave()


def _spawn(main: Main, cfg: CfgNode, args: argparse.Namespace) -> None:
    if _wants_gpu(cfg):
        _require_gpus(args.num_gpus, "--num-gpus")
    elif torch.cuda.is_available():
        raise UserError(
            f"--num-gpus {args.num_gpus} with MODEL.DEVICE {cfg.MODEL.DEVICE}: on a machine with "
            f"GPUs, start CPU processes with torchrun --nproc-per-node {args.num_gpus}"
        )
    # It would say on stderr that it ends the workers which are left when one has failed.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    failures = multiprocessing.get_context("spawn").Value("i", 0)
    try:
        detectron2_launch(
            _run_as_spawned_worker,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, cfg, args, failures),
        )
    except multiprocessing.ProcessExitedException as error:
        if error.exit_code == TOLD and failures.value:
            raise SystemExit(TOLD) from error
        hint = "; is the machine out of memory?" if error.signal_name == "SIGKILL" else ""
        raise UserError(f"a worker died: {error}{hint}") from error
    except multiprocessing.ProcessRaisedException as error:
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"--dist-url {args.dist_url} is taken by another job, or by what is left of one; "
                "pass --dist-url auto"
            ) from error
        raise


def _run_as_spawned_worker(
    main: Main, cfg: CfgNode, args: argparse.Namespace, failures: "Synchronized[int]"
) -> None:
    def count_failures(more: int) -> int:
        with failures.get_lock():
            failures.value += more
            return failures.value

    with errors_in_one_line(count_failures):
        main(cfg, args)
    _leave()


def _leave() -> None:
    # The process of rank 0 serves the others' rendezvous, so nobody leaves before all are done.
    comm.synchronize()
    distributed.destroy_process_group()


def _wants_gpu(cfg: CfgNode) -> bool:
    return cfg.MODEL.DEVICE.startswith("cuda")


def _require_gpus(count: int, option: str) -> None:
    visible = torch.cuda.device_count()
    if count > visible:
        raise UserError(
            f"{option} {count}, but this machine shows {visible} GPUs; ask for at most that many, "
            f"or run {count} processes on the CPU with MODEL.DEVICE cpu"
        )


def _failure_counter() -> CountFailures:
    """Count failures where all processes of a torchrun job see it: in the store of its agent."""
    if not _under_torchrun():
        return lambda more: more
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")

    def count_failures(more: int) -> int:
        try:
            store = distributed.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                timeout=timedelta(seconds=10),
            )
            return store.add(f"ita/failures/{attempt}", more)
        except (RuntimeError, ValueError):  # no such store: this process speaks for itself
            return more

    return count_failures


def _message(error: UserError) -> str:
    """The error's own line; a data loader's worker wraps it into a traceback that ends in it."""
    last_line = str(error).strip().rpartition("\n")[2]
    return last_line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
