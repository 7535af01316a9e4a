"""Faults of one process among several."""

import os
import signal

from tests.engine.kill_restarts import workers
from tests.faults.fault import fault

TWO = ("--num-gpus", "2", "--dist-url", "auto", "--timeout", "10")


def disturbed(world, number, rank=1):
    """Send a signal to one of two processes in the middle of a training."""
    command = world.start("train", *TWO, SOLVER__MAX_ITER=10_000, SOLVER__CHECKPOINT_PERIOD=0)
    command.wait_for("iter 20/")
    processes = workers(command)

    os.kill(processes[-2:][rank], number)
    return world.finish(command)


@fault(
    done="kill -9 of a process of --num-gpus 2",
    seen="error: rank 1 of 2 died",
    code=1,
    left="a log",
    slow=True,
)
def killed_rank(world):
    return disturbed(world, signal.SIGKILL)


def hanging_row(rank):
    """A row in which a process stops for ever."""
    declare = fault(
        done=f"process {rank} of --num-gpus 2 hangs (SIGSTOP)",
        seen=f"error: rank {rank} of 2 died or did nothing for 10 s (--timeout); --resume "
        "continues",
        code=1,
        left="a log",
        slow=True,
    )
    return declare(lambda world: disturbed(world, signal.SIGSTOP, rank))


hanging_first_rank = hanging_row(0)
hanging_rank = hanging_row(1)


@fault(
    done="srun starts several tasks, each with --num-gpus 2",
    seen="srun started 4 tasks, each with --num-gpus 2",
    code=1,
    left="nothing",
)
def tasks_that_start_processes(world):
    words = ["--num-gpus", "2", "--config-file", "configs/toy/ita_tiny.yaml"]
    return world.ita("train", *words, SLURM_STEP_NUM_TASKS="4")


@fault(
    done="--dist-url without a port",
    seen="--dist-url tcp://127.0.0.1 must be tcp://HOST:PORT or, on one machine, auto",
    code=1,
    left="nothing",
)
def address_without_port(world):
    return world.train("--num-gpus", "2", "--dist-url", "tcp://127.0.0.1")
