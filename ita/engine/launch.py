"""Launching the processes of a job, and reporting user errors as one line on stderr."""

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

from ita.engine.run_outputs import note_error
from ita.errors import UserError, one_line
from ita.shortages import explain
from ita.signals import STOPPED, forwarded_signals

# Adds to the job's count of processes with a reported error, and returns the count.
CountFailures = Callable[[int], int]
# Main of a process; returns its exit code, None for 0.
Main = Callable[[CfgNode, argparse.Namespace], int | None]
# Exit code once the error is reported.
REPORTED = 1


def launch(main: Main, cfg: CfgNode, args: argparse.Namespace) -> int:
    """Run ``main(cfg, args)`` in every process of the job.

    Under ``torchrun``, this process is one of them, identified by its environment. Otherwise
    Detectron2's launcher starts ``args.num_gpus`` processes on each of ``args.num_machines``
    machines; a single process runs in place.

    Returns:
        The exit code, of all processes.

    Raises:
        UserError: there are more processes than GPUs, or the address is in use.
    """
    if under_torchrun():
        return _run_as_torchrun_worker(main, cfg, args)
    if args.num_gpus * args.num_machines <= 1:
        return main(cfg, args) or 0
    return _spawn(main, cfg, args)


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= os.environ.keys()


def starts_rank_0(args: argparse.Namespace) -> bool:
    """Whether this process, of those that the user or torchrun started, is or launches rank 0."""
    rank = int(os.environ["RANK"]) if under_torchrun() else args.machine_rank
    return rank == 0


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


def _run_as_torchrun_worker(main: Main, cfg: CfgNode, args: argparse.Namespace) -> int:
    local_rank, local_size = (int(os.environ[k]) for k in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    on_gpu = _uses_gpu(cfg) and torch.cuda.is_available()
    if on_gpu:
        _require_gpus(local_size, "torchrun --nproc-per-node")
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(local_size)
    code = main(cfg, args) or 0
    _leave()
    return code


def _spawn(main: Main, cfg: CfgNode, args: argparse.Namespace) -> int:
    if _uses_gpu(cfg):
        _require_gpus(args.num_gpus, "--num-gpus")
    elif torch.cuda.is_available():
        raise UserError(
            f"--num-gpus {args.num_gpus} with MODEL.DEVICE {cfg.MODEL.DEVICE}: on a machine with "
            f"GPUs, start CPU processes with torchrun --nproc-per-node {args.num_gpus}"
        )
    # Suppress its messages on stderr about terminating the remaining workers after a failure.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    failures = multiprocessing.get_context("spawn").Value("i", 0)
    try:
        with forwarded_signals(_children):
            detectron2_launch(
                _run_as_spawned_worker,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, cfg, args, failures),
            )
    except multiprocessing.ProcessExitedException as error:
        if error.exit_code == STOPPED:
            return STOPPED
        if error.exit_code == REPORTED and failures.value:
            raise SystemExit(REPORTED) from error
        hint = "; is the machine out of memory?" if error.signal_name == "SIGKILL" else ""
        raise UserError(f"a worker died: {error}{hint}") from error
    except multiprocessing.ProcessRaisedException as error:
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"--dist-url {args.dist_url} is in use by another job or its leftover processes; "
                "pass --dist-url auto"
            ) from error
        raise
    return 0


def _children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def _run_as_spawned_worker(
    main: Main, cfg: CfgNode, args: argparse.Namespace, failures: "Synchronized[int]"
) -> None:
    def count_failures(more: int) -> int:
        with failures.get_lock():
            failures.value += more
            return failures.value

    with errors_in_one_line(count_failures):
        code = main(cfg, args)
    _leave()
    if code:
        raise SystemExit(code)


def _leave() -> None:
    # Rank 0 hosts the rendezvous store, so no process may leave before all are done.
    comm.synchronize()
    distributed.destroy_process_group()


def _uses_gpu(cfg: CfgNode) -> bool:
    return cfg.MODEL.DEVICE.startswith("cuda")


def _require_gpus(count: int, option: str) -> None:
    visible = torch.cuda.device_count()
    if count > visible:
        raise UserError(
            f"{option} {count}, but this machine has {visible} visible GPUs; request at most that "
            f"many, or run {count} processes on the CPU with MODEL.DEVICE cpu"
        )


def _failure_counter() -> CountFailures:
    """Return a failure counter shared by a torchrun job, kept in the store of its agent."""
    if not under_torchrun():
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
        except (RuntimeError, ValueError):  # no reachable store: count this process only
            return more

    return count_failures


def _message(error: UserError) -> str:
    """Message of the error, without the traceback that a data loader worker puts before it."""
    last_line = str(error).strip().rpartition("\n")[2]
    return last_line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
