"""Submission of trainings to SLURM with submitit: stopped in time, queued again, resumed."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ita.errors import UserError, reason_of
from ita.extras import optional_module

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.utils import DelayedSubmission

SLURM, LOCAL = "slurm", "local"
# A job that reaches its time limit is queued again so many times.
MAX_TIMEOUTS = 100
# Variables of torchrun with the name of the job and how often it was started again.
RUN_ID, RESTARTS = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"
# Start of the name of a submitted job.
SUBMITTED = "submitit "


@dataclass(frozen=True)
class Resources:
    """What a job requests.

    Attributes:
        machines: number of machines.
        processes: number of processes on each.
        on_gpu: whether each process gets a GPU.
        cores: number of CPU cores of each process.
        minutes: time limit.
        partition: partition of the cluster; "" for its default.
        others: other options of sbatch, by name.
    """

    machines: int
    processes: int
    on_gpu: bool
    cores: int
    minutes: int
    partition: str
    others: Mapping[str, str]


@dataclass
class TrainingJob:
    """A process of a submitted training; submitit calls it in each task.

    Attributes:
        words: arguments of ``ita train``.
        restarts: how often the job has been queued again, after which it resumes.
    """

    words: tuple[str, ...]
    restarts: int = 0
    _child: int = 0

    def __call__(self) -> None:
        """Run the training in a process of its own, which ignores the scheduler's signal.

        submitit catches that signal, in the middle of anything, and calls :meth:`checkpoint`.
        """
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        job = {RUN_ID: f"{SUBMITTED}{JobEnvironment().job_id}", RESTARTS: str(self.restarts)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "ita", "train", *self.words],
            env={**os.environ, **job},
            preexec_fn=partial(signal.signal, JobEnvironment._usr_sig(), signal.SIG_IGN),
        ).pid
        # Not Popen.wait, whose lock checkpoint() would wait for in the same thread.
        if code := os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1]):
            raise SystemExit(code)

    def checkpoint(self) -> "DelayedSubmission":
        """Let all processes finish the step and save; return what is queued again."""
        from submitit.core.utils import DelayedSubmission

        if self._child:
            with suppress(ProcessLookupError, ChildProcessError):  # it may have ended
                os.kill(self._child, signal.SIGUSR1)
                os.waitpid(self._child, 0)
        return DelayedSubmission(TrainingJob(self.words, self.restarts + 1))


def submit(cluster: str, words: Sequence[str], folder: Path, resources: Resources) -> "Job[Any]":
    """Submit a training.

    Args:
        cluster: ``SLURM``, or ``LOCAL`` for processes of this machine, to try a submission.
        words: arguments of ``ita train``, without those of the launcher.
        folder: for the job's logs; all machines must see it.
        resources: what the job requests.

    Raises:
        UserError: submitit is not installed, there is no SLURM here, or it refuses the job.
    """
    submitit = optional_module("submitit", "--submit", "slurm")
    try:
        executor = submitit.AutoExecutor(
            folder,
            cluster=cluster,
            slurm_max_num_timeout=MAX_TIMEOUTS,
            local_max_num_timeout=MAX_TIMEOUTS,
        )
        executor.update_parameters(
            name="ita",
            nodes=resources.machines,
            tasks_per_node=resources.processes,
            timeout_min=resources.minutes,
            **_of_cluster(cluster, resources),
        )
        return executor.submit(TrainingJob(tuple(words)))
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        reason = reason_of(error)
        raise UserError(f"--submit {cluster}: the job was not accepted: {reason}") from error


def _of_cluster(cluster: str, resources: Resources) -> dict[str, Any]:
    if cluster == LOCAL:
        return {}
    parameters: dict[str, Any] = {"cpus_per_task": resources.cores}
    if resources.on_gpu:
        parameters["gpus_per_node"] = resources.processes
    if resources.partition:
        parameters["slurm_partition"] = resources.partition
    if resources.others:
        parameters["slurm_additional_parameters"] = dict(resources.others)
    return parameters
