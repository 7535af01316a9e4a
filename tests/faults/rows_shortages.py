"""Faults of a machine that runs out of memory or loses processes."""

import os
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

from tests.faults.fault import fault

# More steps than happen.
LONG = {"SOLVER__MAX_ITER": 400, "SOLVER__CHECKPOINT_PERIOD": 0}
LEFT = 30 << 20


def limit_memory(pid):
    """Leave a process little memory beside what it has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LEFT
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


def with_last_step(outcome):
    """Check that the last checkpoint is of the last step, as the error says."""
    told = re.search(r"--resume continues after (\d+) iterations", outcome.errors)
    last = told and outcome.left.endswith(f" {told.group(1)}")
    return replace(outcome, left="a checkpoint of the last step") if last else outcome


@fault(
    done="a data loader worker is killed during training",
    seen="a data loader worker was killed, as the system does when main memory is full; lower "
    "DATALOADER.NUM_WORKERS; training ended in iteration",
    code=1,
    left="a checkpoint of the last step",
)
def killed_worker(world):
    command = world.start("train", **{**LONG, "DATALOADER__NUM_WORKERS": 1})
    # Not at the first line, after which the writers import their libraries.
    command.wait_for("iter 40/400")
    (worker,) = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    return with_last_step(world.finish(command))


@fault(
    done="main memory is full during an evaluation",
    seen=".jpg: out of memory (",
    code=1,
    left="a log",
)
def full_memory_in_evaluation(world):
    # Features of more bytes than are left, which no memory of the image before can hold.
    sizes = {"INPUT__MIN_SIZE_TEST": 2400, "INPUT__MAX_SIZE_TEST": 2400}
    keys = {**sizes, "DATASETS__TEST": ("toy_train",)}
    command = world.start("evaluate", **keys)
    command.wait_for("evaluating toy_train: 6 images")
    limit_memory(command.pid)
    return world.finish(command)
