"""Running ``train_net.py`` as a person would: in processes of its own."""

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
# Bytes in the unit that the operating system counts memory in.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


def training_environment(datasets: Path, threads: int | None = None) -> dict[str, str]:
    """This process's environment with the folder of the data sets.

    Args:
        datasets: what DETECTRON2_DATASETS names.
        threads: CPU threads of the process; None leaves the choice to PyTorch.
    """
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets)}
    return environment if threads is None else environment | {"OMP_NUM_THREADS": str(threads)}


class Stopped(Exception):
    """No process is started any more."""


@dataclass(frozen=True)
class Ended:
    """A process that has come to its end.

    Attributes:
        exit_code: negative if a signal ended it.
        seconds: from start to end.
        peak_memory: most bytes resident in it or in one of the processes that it started.
    """

    exit_code: int
    seconds: float
    peak_memory: int


class Processes:
    """Runs commands, also from several threads at once, and can end all that are running.

    Each process leads a session of its own: what is typed at the terminal does not reach it, and
    it ends together with the processes that it has started.
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
        """Run a command in the checkout until it ends.

        Args:
            command: program and arguments.
            environment: all of its environment.
            log: file that its output is added to.
            keep_open: file descriptors that it inherits.

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
            # Until it is waited for with the lock held, the number is no other process's.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.perf_counter() - start
            with self._lock:
                self._running.remove(process.pid)
                _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait again
        return Ended(process.returncode, seconds, usage.ru_maxrss * _MEMORY_UNIT)

    def stop(self) -> None:
        """End every running process and start none any more."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                os.killpg(pid, signal.SIGTERM)
