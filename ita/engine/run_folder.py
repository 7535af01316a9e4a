"""The folder of a run (``OUTPUT_DIR``): one job at a time, and no former results lost."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ita.engine.checkpoint import LAST_CHECKPOINT
from ita.errors import UserError, reason_of
from ita.files import PARTIAL_SUFFIX

logger = logging.getLogger(__name__)

LOCK = ".lock"
# Names of the job that writes to the folder, one on each line, with the number of restarts.
JOB = ".job"
# Subfolder for results of ``--eval-only`` beside those of a run; "-2", "-3", ... for further ones.
EVALUATION = "evaluation"
# What a run cannot make again in a minute.
VALUABLES = (LAST_CHECKPOINT, "model_*.pth", "metrics.json", "results.json")
# What ``--overwrite`` removes: all that a run writes, except evaluations in folders of their own.
WRITTEN = (
    *VALUABLES,
    JOB,
    "config.yaml",
    "events.out.tfevents.*",
    "inference",
    "log.txt*",
    "nonfinite_*.json",
    "report.html",
    "tracker_id.txt",
)
# Seconds between two signs of life of a job, for jobs on other machines.
BEAT = 15.0
# Answers for a file that another process has locked, and of file systems without locks.
_LOCKED = (errno.EACCES, errno.EAGAIN)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def has_run(folder: Path) -> bool:
    """Whether a folder has checkpoints or results."""
    return any(any(folder.glob(pattern)) for pattern in VALUABLES)


class RunFolder(AbstractContextManager["RunFolder"]):
    """Claims a folder for this job until the end of the ``with`` block; on the main process only.

    The claim is a lock of the operating system, which ends with the process however that ends.
    Since many shared file systems have such locks on each machine only, the job also shows signs of
    life to other machines by touching the file.

    Args:
        path: the folder. If it does not exist yet, :meth:`open` creates and claims it, so that an
            input error before leaves nothing behind.
        beat: seconds between two signs of life.
    """

    def __init__(self, path: Path, *, beat: float = BEAT) -> None:
        self.path = path
        self._beat = beat
        self._descriptor: int | None = None
        self._ended = threading.Event()

    def __enter__(self) -> "RunFolder":
        """Claim the folder if it exists.

        Raises:
            UserError: another job uses it, or it cannot be written.
        """
        if self.path.is_dir():
            self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the folder back."""
        self._ended.set()
        if self._descriptor is not None:
            self._showing_life.join()
            with suppress(OSError):  # which would hide the error of the run
                os.ftruncate(self._descriptor, 0)
                os.close(self._descriptor)
            self._descriptor = None

    def open(self) -> None:
        """Create the folder if necessary, claim it, and remove the incomplete files in it.

        Raises:
            UserError: another job uses it, or it cannot be written.
        """
        if self._descriptor is not None:
            return
        lock = self.path / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {lock}: {reason_of(error)}") from error
        try:
            self._claim(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._showing_life = threading.Thread(
            target=self._show_life, args=(descriptor,), daemon=True
        )
        self._showing_life.start()
        for path in [*self.path.glob(f".*{PARTIAL_SUFFIX}"), *self._incomplete_results()]:
            logger.info("Removing %s, which an interrupted job has left", path)
            _remove(path)

    def discard_run(self) -> None:
        """Remove what a former run has written, for ``--overwrite``.

        Raises:
            UserError: something cannot be removed.
        """
        for pattern in WRITTEN:
            for path in self.path.glob(pattern):
                _remove(path)

    def would_discard(self, path: Path) -> bool:
        """Whether :meth:`discard_run` removes a file."""
        found = (file for pattern in WRITTEN for file in self.path.glob(pattern))
        return any(file.exists() and path.exists() and file.samefile(path) for file in found)

    def _incomplete_results(self) -> list[Path]:
        return list((self.path / "inference").rglob(f".*{PARTIAL_SUFFIX}"))

    def _claim(self, descriptor: int) -> None:
        here = socket.gethostname()
        try:
            locked = _lock(descriptor)
        except OSError as error:
            raise UserError(f"cannot lock {self.path / LOCK}: {reason_of(error)}") from error
        holder = _read_holder(descriptor)
        if locked is False:
            raise UserError(f"{self.path} is in use by {_describe(holder)}")
        # A lock that we got shows that a holder on this machine has ended.
        elsewhere = holder and (holder.get("host") != here or locked is None)
        if elsewhere and self._lives(descriptor, holder):
            raise UserError(f"{self.path} is in use by {_describe(holder)}")
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        record = json.dumps({"host": here, "process": os.getpid(), "started": started})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, record.encode(), 0)

    def _lives(self, descriptor: int, holder: dict[str, Any]) -> bool:
        """Watch for a sign of life; clocks of machines differ, so any change counts."""
        seconds = 3 * self._beat
        logger.warning(
            "%s was last used by %s; watching for %.0f s whether it is at work",
            self.path,
            _describe(holder),
            seconds,
        )
        before, end = os.fstat(descriptor).st_mtime_ns, time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(1.0, self._beat))
            # Not opened anew: to close any descriptor of a file gives up the process's lock on it.
            if os.stat(self.path / LOCK).st_mtime_ns != before:
                return True
        return False

    def _show_life(self, descriptor: int) -> None:
        while not self._ended.wait(self._beat):
            try:
                os.utime(descriptor)
            except OSError as error:
                logger.warning("cannot touch %s: %s", self.path / LOCK, reason_of(error))


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise UserError(f"cannot remove {path}: {reason_of(error)}") from error


def refuse_run(folder: Path) -> None:
    """Refuse to train anew in a folder that has a run.

    Raises:
        UserError: the folder has checkpoints or results.
    """
    if has_run(folder):
        raise UserError(
            f"{folder} has a run: continue it with --resume, choose another OUTPUT_DIR, or remove "
            "its checkpoints and results with --overwrite"
        )


def evaluation_folder(output: Path) -> Path:
    """Return the folder for an evaluation: ``output``, or a new one in it if it has a run."""
    if not has_run(output):
        return output
    number = 1
    while True:
        folder = output / (EVALUATION if number == 1 else f"{EVALUATION}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(f"cannot write {folder}: {reason_of(error)}") from error
        else:
            return folder


def _lock(descriptor: int) -> bool | None:
    """Lock a file for this process, not those it forks.

    Returns:
        Whether it got the lock; None if the file system has no locks.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another job"
    return (
        f"process {holder.get('process')} on {holder.get('host')}, started {holder.get('started')}"
    )
