"""Running ``ita train`` in separate processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (sys.executable, "-m", "ita", "train")
# Bytes per unit of ``ru_maxrss``.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


def training_environment(datasets: Path, threads: int | None = None) -> dict[str, str]:
    """Environment of this process with the folder of the data sets.

    Args:
        datasets: folder for DETECTRON2_DATASETS.
        threads: number of CPU threads of a process; None leaves it to PyTorch.
    """
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets)}
    return environment if threads is None else environment | {"OMP_NUM_THREADS": str(threads)}


class Stopped(Exception):
    """Raised if a process is to be started after ``Processes.stop``."""


@dataclass(frozen=True)
class Ended:
    """Outcome of a finished process.

    Attributes:
        exit_code: exit code; negative if terminated by a signal.
        seconds: wall-clock time.
        peak_memory: maximum resident memory of the process or of one of its children, in bytes.
    """

    exit_code: int
    seconds: float
    peak_memory: int


class Processes:
    """Runs commands, also from several threads at once, and can terminate all running ones.

    Each process leads a separate session: keyboard signals of the terminal do not reach it, and it
    is terminated together with its children.
    """

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        keep_open: Sequence[int] = (),
    ) -> Ended:
        """Run a command in the repository root and wait for it.

        Args:
            command: program and arguments.
            environment: complete environment of the process.
            log: file that the output is appended to.
            keep_open: file descriptors that the process inherits.

        Raises:
            Stopped: ``stop`` was called before.
        """
        with ExitStack() as stack:
            output = stack.enter_context(log.open("ab"))
            with self._lock:
                if self._stopped:
                    raise Stopped
                start = time.perf_counter()
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=keep_open,
                )
                self._running.add(process.pid)
            # Reaped only below, with the lock held, so that ``stop`` never signals a reused PID.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.perf_counter() - start
            with self._lock:
                self._running.remove(process.pid)
                _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # otherwise, Popen waits again
        return Ended(process.returncode, seconds, usage.ru_maxrss * _MEMORY_UNIT)

    def stop(self) -> None:
        """Terminate all running processes and start no further ones."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                os.killpg(pid, signal.SIGTERM)
