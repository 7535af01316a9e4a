"""Executing runs in parallel, with a progress message for each start and end."""

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from comparison.processes import Ended, Processes, Stopped, training_environment
from comparison.runs import Run, last_lines
from ita.errors import UserError

# A run and its start time.
Working = tuple[Run, float]


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Lock a folder against other comparisons, even after this process while a run continues.

    Yields:
        File descriptor that every run must keep open.

    Raises:
        UserError: another comparison is active in the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another comparison, or a run left behind by one, is active in {folder}; wait for "
                "it or choose another --output"
            ) from error
        yield lock
    finally:
        os.close(lock)


@dataclass
class Schedule:
    """Executes runs, ``jobs`` at a time, each as soon as the run it needs is finished.

    Attributes:
        datasets: folder of the data sets.
        command: command of ``ita train``, without arguments.
        jobs: number of parallel processes, which share the cores.
        lock: file descriptor that every process keeps open.
        log: receives progress messages.
        summarize: returns a short summary of a finished evaluation.
        failures: error messages of failed runs.
    """

    datasets: Path
    command: Sequence[str]
    jobs: int
    lock: int
    log: Callable[[str], None]
    summarize: Callable[[Run], str]
    failures: list[str] = field(default_factory=list)
    _processes: Processes = field(default_factory=Processes)
    _seconds: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return max(1, (os.cpu_count() or 1) // self.jobs)

    def execute(self, runs: Sequence[Run]) -> None:
        """Execute all unfinished runs; failures are collected, and the other runs continue.

        An exception, such as from Ctrl-C, first terminates all processes.
        """
        waiting = {run.folder: run for run in runs if not run.is_finished()}
        if done := len(runs) - len(waiting):
            self.log(f"{done} of {len(runs)} runs are already finished")
        total = len(waiting)
        working: dict[Future[Ended], Working] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while waiting or working:
                    for run in self._startable(waiting, working.values()):
                        del waiting[run.folder]
                        number = total - len(waiting)
                        self.log(f"[{number}/{total}] {run.title} ...")
                        working[pool.submit(self._run, run)] = (run, time.perf_counter())
                    ended, _ = wait(working, return_when=FIRST_COMPLETED)
                    for future in ended:
                        run, _ = working.pop(future)
                        self._conclude(run, future.result(), waiting, working.values())
            except BaseException:
                self._processes.stop()
                raise

    def _startable(self, waiting: Mapping[Path, Run], working: Collection[Working]) -> list[Run]:
        unfinished = waiting.keys() | {run.folder for run, _ in working}
        ready = [r for r in waiting.values() if not r.needs or r.needs.folder not in unfinished]
        return ready[: self.jobs - len(working)]

    def _run(self, run: Run) -> Ended:
        attempt = run.attempt(self.command, self.threads)
        environment = training_environment(self.datasets, self.threads)
        try:
            ended = self._processes.run(
                attempt.command, environment, run.log, keep_open=(self.lock,)
            )
        except Stopped:
            attempt.withdraw()
            raise
        attempt.end(ended)
        return ended

    def _conclude(
        self, run: Run, ended: Ended, waiting: dict[Path, Run], working: Iterable[Working]
    ) -> None:
        """Report the outcome of a run; if it failed, drop the runs that need it."""
        if ended.exit_code:
            self.log(f"{run.title} FAILED")
            self.failures.append(
                f"{run.title} failed with exit code {ended.exit_code}; {run.log} ends:\n"
                f"{last_lines(run.log)}"
            )
            for folder in [f for f, other in waiting.items() if _is_needed(run, other)]:
                del waiting[folder]
            return
        self._seconds[run.needs is None].append(ended.seconds)
        found = f": {self.summarize(run)}" if run.needs else ""
        left = self._remaining(waiting.values(), working)
        memory = ended.peak_memory / 1e6
        self.log(f"{run.title} took {ended.seconds:.0f} s, {memory:.0f} MB{found}{left}")

    def _remaining(self, waiting: Iterable[Run], working: Iterable[Working]) -> str:
        """Estimated remaining time, from the mean duration of finished runs of each kind."""
        now = time.perf_counter()
        left = [(run, 0.0) for run in waiting] + [(run, now - start) for run, start in working]
        known = [(self._seconds[run.needs is None], spent) for run, spent in left]
        seconds = sum(max(0.0, fmean(past) - spent) for past, spent in known if past)
        return f" (about {format_seconds(seconds / self.jobs)} left)" if seconds else ""


def format_seconds(seconds: float) -> str:
    """Format a duration in a suitable unit."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _is_needed(run: Run, other: Run) -> bool:
    return other.needs is not None and other.needs.folder == run.folder
