"""Processes that SLURM's ``srun`` started, one task for each GPU."""

import argparse
import os
import re

from ita.engine.launch.place import Place
from ita.errors import UserError

# Ports of the store, which rank 0 hosts; job steps on a machine get different ones.
_FIRST_PORT, _PORTS = 2**15, 2**14


def slurm_place(args: argparse.Namespace) -> Place | None:
    """Return this process's place among the tasks of an ``srun``; None for a single task.

    Tasks that start Detectron2's launcher, with ``--num-machines``, do not count.

    Raises:
        UserError: each of several tasks would start processes of its own.
    """
    variables = os.environ
    tasks = _number_of_tasks()
    if tasks <= 1 or args.num_machines > 1:
        return None
    if args.num_gpus > 1:
        raise UserError(
            f"srun started {tasks} tasks, each with --num-gpus {args.num_gpus}; use one task for "
            "each GPU without --num-gpus, or one for each machine with --num-machines too"
        )
    local_rank = task_on_machine()
    has_own_gpu = bool({"SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK"} & variables.keys())
    step = int(variables["SLURM_JOB_ID"]) * 31 + int(variables["SLURM_STEP_ID"])
    return Place(
        rank=int(variables["SLURM_PROCID"]),
        world_size=tasks,
        local_rank=local_rank,
        local_size=_tasks_per_machine(variables["SLURM_STEP_TASKS_PER_NODE"]),
        device=0 if has_own_gpu else local_rank,
        address=variables.get("MASTER_ADDR") or first_host(variables["SLURM_STEP_NODELIST"]),
        port=int(variables.get("MASTER_PORT") or _FIRST_PORT + step % _PORTS),
        hosts_store=True,
        option="srun --ntasks-per-node",
    )


def task_on_machine() -> int:
    """Number of this task among those that ``srun`` started on this machine; 0 for a single one."""
    return int(os.environ.get("SLURM_LOCALID", "0")) if _number_of_tasks() > 1 else 0


def _number_of_tasks() -> int:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def first_host(nodes: str) -> str:
    """First host of a list as SLURM writes it, such as ``gpu[03-05,9],login1``."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def _tasks_per_machine(text: str) -> int:
    """Read a value such as ``8(x4)``.

    Raises:
        UserError: machines have different numbers of tasks.
    """
    match = re.fullmatch(r"(\d+)(?:\(x\d+\))?", text)
    if not match:
        raise UserError(
            f"srun started {text} tasks on its machines; start the same number on each, with "
            "--ntasks-per-node"
        )
    return int(match[1])
