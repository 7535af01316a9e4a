"""Launching the processes of a job: one process, ``--num-gpus``, torchrun, SLURM.

Results do not depend on the launcher, only on the number of processes.
"""

import argparse

from detectron2.config import CfgNode

from ita.engine.launch.one_line import Failures, errors_in_one_line
from ita.engine.launch.place import Main, Place
from ita.engine.launch.slurm import slurm_place
from ita.engine.launch.spawn import spawn
from ita.engine.launch.torchrun import torchrun_place
from ita.engine.launch.worker import run_worker

__all__ = ["Failures", "errors_in_one_line", "launch", "place_in_job", "starts_rank_0"]


def launch(main: Main, cfg: CfgNode, args: argparse.Namespace, failures: Failures) -> int:
    """Run ``main(cfg, args)`` in every process of the job.

    If ``torchrun`` or ``srun`` started the processes, this process is one of them, identified by
    its environment. Otherwise it starts ``args.num_gpus`` processes on each of
    ``args.num_machines`` machines; a single process runs in place.

    Args:
        main: main of a process.
        cfg: config of the job.
        args: ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url`` of the processes to
            start; ``timeout``, in seconds, after which a process no longer waits for others.
        failures: of the enclosing :func:`errors_in_one_line`.

    Returns:
        The exit code, of all processes.

    Raises:
        UserError: there are more processes than GPUs, the address is in use, or a process died or
            did not answer in time.
    """
    if place := place_in_job(args):
        return run_worker(main, cfg, args, place, failures)
    if args.num_gpus * args.num_machines <= 1:
        return main(cfg, args) or 0
    return spawn(main, cfg, args)


def place_in_job(args: argparse.Namespace) -> Place | None:
    """Return this process's place among those that torchrun or srun started; None for no others."""
    return torchrun_place() or slurm_place(args)


def starts_rank_0(args: argparse.Namespace) -> bool:
    """Whether this process, of those that the user or a launcher started, is or launches rank 0."""
    place = place_in_job(args)
    return (place.rank if place else args.machine_rank) == 0
