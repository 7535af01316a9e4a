"""Processes that this one starts: ``--num-gpus`` on each of ``--num-machines`` machines."""

import argparse
import logging
import signal
import socket
from multiprocessing.sharedctypes import Synchronized
from urllib.parse import urlsplit

from detectron2.config import CfgNode
from torch import multiprocessing

from ita.engine.launch.one_line import REPORTED, errors_in_one_line
from ita.engine.launch.place import Main, Place
from ita.engine.launch.waiting import name_ranks
from ita.engine.launch.worker import require_gpus, run_worker, uses_gpu
from ita.errors import UserError
from ita.signals import STOPPED, forwarded_signals

# Exit code of a process that Ctrl-C has ended, as shells tell it.
_INTERRUPTED = 128 + signal.SIGINT


def spawn(main: Main, cfg: CfgNode, args: argparse.Namespace) -> int:
    """Start the processes of this machine; see :func:`ita.engine.launch.launch`."""
    if uses_gpu(cfg):
        require_gpus(args.num_gpus, "--num-gpus")
    address = _address(args)
    # Suppress its messages on stderr about terminating the remaining workers after a failure.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    failures = multiprocessing.get_context("spawn").Value("i", 0)
    try:
        with forwarded_signals(_children):
            multiprocessing.spawn(
                _run_spawned, (main, cfg, args, address, failures), nprocs=args.num_gpus
            )
    except multiprocessing.ProcessExitedException as error:
        if error.exit_code == STOPPED:
            return STOPPED
        if error.exit_code == _INTERRUPTED:
            raise KeyboardInterrupt from error
        if failures.value:
            raise SystemExit(REPORTED) from error
        raise UserError(_death(error, args)) from error
    return 0


def _address(args: argparse.Namespace) -> tuple[str, int]:
    """Host and port of the job's store.

    Raises:
        UserError: ``--dist-url`` does not name them.
    """
    if args.dist_url == "auto" and args.num_machines == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()
    url = urlsplit(args.dist_url)
    if url.scheme != "tcp" or not url.hostname or not url.port:
        raise UserError(
            f"--dist-url {args.dist_url} must be tcp://HOST:PORT or, on one machine, auto"
        )
    return url.hostname, url.port


def _death(error: multiprocessing.ProcessExitedException, args: argparse.Namespace) -> str:
    rank = args.machine_rank * args.num_gpus + error.error_index
    how = error.signal_name or f"exit code {error.exit_code}"
    hint = "; is the machine out of memory?" if error.signal_name == "SIGKILL" else ""
    return f"{name_ranks([rank], args.num_machines * args.num_gpus)} died: {how}{hint}"


def _children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def _run_spawned(
    local_rank: int,
    main: Main,
    cfg: CfgNode,
    args: argparse.Namespace,
    address: tuple[str, int],
    failures: "Synchronized[int]",
) -> None:
    def count_failures(more: int) -> int:
        with failures.get_lock():
            failures.value += more
            return failures.value

    place = Place(
        rank=args.machine_rank * args.num_gpus + local_rank,
        world_size=args.num_machines * args.num_gpus,
        local_rank=local_rank,
        local_size=args.num_gpus,
        device=local_rank,
        address=address[0],
        port=address[1],
        hosts_store=True,
        option="--num-gpus",
    )
    try:
        with errors_in_one_line(count_failures):
            code = run_worker(main, cfg, args, place)
    except KeyboardInterrupt as stop:  # which PyTorch would take for success
        raise SystemExit(_INTERRUPTED) from stop
    if code:
        raise SystemExit(code)
