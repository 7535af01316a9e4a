"""Carrying out runs side by side, with a line for each start and end."""

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

Tell = Callable[[str], None]
# A run and when it was started.
Working = tuple[Run, float]


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Keep other comparisons out of a folder, also after this process's end while a run goes on.

    Yields:
        The file descriptor that every run has to keep open.

    Raises:
        UserError: another comparison works there.
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
                f"another comparison, or a run that one has left behind, is at work in {folder}; "
                "wait for it or give another --output"
            ) from error
        yield lock
    finally:
        os.close(lock)


@dataclass
class Schedule:
    """Carries out runs, ``jobs`` at a time, each as soon as what it needs is finished.

    Attributes:
        datasets: folder of the data sets.
        command: what runs ``ita train``, without arguments.
        jobs: processes side by side; they share the cores.
        lock: file descriptor that every process keeps open.
        tell: takes a line of progress.
        summarize: says in a few words what a finished evaluation has found.
    """

    datasets: Path
    command: Sequence[str]
    jobs: int
    lock: int
    tell: Tell
    summarize: Callable[[Run], str]
    failures: list[str] = field(default_factory=list)
    _processes: Processes = field(default_factory=Processes)
    _seconds: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    _ended: int = 0

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return max(1, (os.cpu_count() or 1) // self.jobs)

    def carry_out(self, runs: Sequence[Run]) -> None:
        """Finish all runs that are not; what fails is told in ``failures``, and the rest goes on.

        Whatever interrupts this, such as Ctrl-C, ends the processes first.
        """
        waiting = {run.folder: run for run in runs if not run.is_finished()}
        if done := len(runs) - len(waiting):
            self.tell(f"{done} of {len(runs)} runs are finished already")
        total = len(waiting)
        working: dict[Future[Ended], Working] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while waiting or working:
                    for run in self._startable(waiting, working.values()):
                        del waiting[run.folder]
                        number = total - len(waiting)
                        self.tell(f"[{number}/{total}] {run.title} ...")
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
        """Tell how a run went; those that needed a failed one are given up."""
        if ended.exit_code:
            self.tell(f"{run.title} FAILED")
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
        self.tell(f"{run.title} took {ended.seconds:.0f} s, {memory:.0f} MB{found}{left}")

    def _remaining(self, waiting: Iterable[Run], working: Iterable[Working]) -> str:
        """A guess from what the runs took so far, of each kind."""
        now = time.perf_counter()
        left = [(run, 0.0) for run in waiting] + [(run, now - start) for run, start in working]
        known = [(self._seconds[run.needs is None], spent) for run, spent in left]
        seconds = sum(max(0.0, fmean(past) - spent) for past, spent in known if past)
        return f" (about {format_seconds(seconds / self.jobs)} left)" if seconds else ""


def format_seconds(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _is_needed(run: Run, other: Run) -> bool:
    return other.needs is not None and other.needs.folder == run.folder
