"""Commands as processes of their own, started in milliseconds.

A process that has imported the libraries is forked for each command, since importing them takes
longer than most commands. It has no threads yet.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

# What commands import before they do anything.
LIBRARIES = ["ita.cli.train", "ita.engine.job", "ita.engine.launch", "ita.predictor"]
# Seconds after which a command hangs.
LIMIT = 120.0
REPOSITORY = Path(__file__).resolve().parents[2]


class Command:
    """A started ``ita`` command.

    Attributes:
        pid: its process id.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], prefix: Path) -> None:
        """Start it.

        Args:
            words: the command line, from "ita" on.
            environment: variables that it has besides those of this process.
            prefix: start of the paths of files for its output.
        """
        self._stdout, self._stderr = prefix.with_suffix(".out"), prefix.with_suffix(".err")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        self._process = context.Process(
            target=_run, args=(list(words), dict(environment), str(self._stdout), str(self._stderr))
        )
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        """What it has written to stdout so far."""
        return self._stdout.read_text() if self._stdout.exists() else ""

    @property
    def errors(self) -> str:
        """What it has written to stderr so far."""
        return self._stderr.read_text() if self._stderr.exists() else ""

    def wait_for(self, text: str) -> None:
        """Wait until its output has a text."""
        end = time.monotonic() + LIMIT
        while text not in self.output:
            assert self._process.is_alive(), self.output[-2000:] + self.errors[-2000:]
            assert time.monotonic() < end, f"no {text!r} in {self.output[-2000:]}"
            time.sleep(0.01)

    def wait_for_file(self, folder: Path, pattern: str, *, after: float) -> None:
        """Wait until a folder has a file of a name, some seconds from now, or until it ends."""
        self.sleep(after)
        while self._process.is_alive() and not any(folder.glob(pattern)):
            pass  # such files last for milliseconds

    def sleep(self, seconds: float) -> None:
        """Wait, at most until it ends."""
        self._process.join(seconds)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        self._process.join(LIMIT)
        if self._process.is_alive():
            self._process.kill()
            raise AssertionError(f"it hangs: {self.output[-2000:]}{self.errors[-2000:]}")
        assert self._process.exitcode is not None
        return self._process.exitcode


def _run(words: list[str], environment: dict[str, str], stdout: str, stderr: str) -> None:
    for path, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), stream.fileno())
    os.environ.update(environment)
    # As in a process that a shell starts: the fork server would be the parent of its workers.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    # A test that runs in the background of a shell ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(REPOSITORY)
    sys.argv = words
    from ita.cli import main

    sys.exit(main())
