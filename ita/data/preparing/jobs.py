"""Runs the work of preparing: in several processes, and only what is not finished yet."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
from tqdm import tqdm

from ita.data.preparing.outputs import is_finished, make_folder, write_file
from ita.errors import UserError


class Job(Protocol):
    """The work on one image. It is sent to another process, so it holds little."""

    @property
    def targets(self) -> tuple[Path, ...]:
        """The files that the job makes."""

    def make(self, unfinished: Collection[Path]) -> Any:
        """Make the ``unfinished`` of the targets, perhaps none.

        Returns:
            What the step's json files need of this image, whether or not a target is unfinished.

        Raises:
            UserError: a raw file that cannot be used, or a target that cannot be written.
        """


@dataclass(frozen=True)
class JsonFile:
    """A json file over all images of a step, made of what the jobs return.

    Attributes:
        images: the ``file_name`` of all its ``images``. With others the file is made again.
        build: results of the jobs, in their order -> content.
    """

    path: Path
    images: frozenset[str]
    build: Callable[[Sequence[Any]], dict[str, Any]]

    def is_complete(self) -> bool:
        """Whether the file is there and is about these images."""
        try:
            content = json.loads(self.path.read_bytes())
            return {image["file_name"] for image in content["images"]} == self.images
        except (OSError, ValueError, KeyError, TypeError):
            return False


@dataclass(frozen=True)
class Step:
    """A part of a data set's preparation.

    Attributes:
        title: stands at the progress bar.
        json_files: are written when all jobs are done.
        own_folders: the targets' folders hold nothing else, so strange files are worth a note.
    """

    title: str
    jobs: Sequence[Job]
    json_files: tuple[JsonFile, ...] = ()
    own_folders: bool = True


@dataclass(frozen=True)
class Plan:
    """What is to be done for a data set, and what is not, with the reason."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


class Workers:
    """Processes that work on jobs; none are started for one worker, or before there is work.

    Each uses one core. That goes for this process, too, while it has them: a process that is forked
    while OpenCV has threads waits for them forever.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        self._num_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(self._num_threads)

    def map(self, work: Sequence[tuple[Job, Collection[Path]]]) -> Iterator[Any]:
        """Yield what the jobs return, in their order; the first error ends it.

        Raises:
            UserError: of a job, or a process died.
        """
        if self._count == 1 or len(work) < 2:
            yield from map(_make, work)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._count, initializer=_start_worker, initargs=(os.getpid(),)
            )
        # Jobs in one message share what they have in common, as their tables.
        chunk = max(1, min(16, len(work) // (4 * self._count)))
        try:
            yield from self._pool.map(_make, work, chunksize=chunk)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, perhaps for want of memory; run the same command again "
                "with fewer --workers: finished files are kept"
            ) from error


def run_step(step: Step, workers: Workers, *, dry_run: bool = False) -> list[str]:
    """Make what is unfinished.

    Args:
        dry_run: only say what would be made.

    Returns:
        Lines that say, folder by folder, what was made and what was there before.

    Raises:
        UserError: see :class:`Job`.
    """
    unfinished = [
        tuple(target for target in job.targets if not is_finished(target)) for job in step.jobs
    ]
    stale = [file for file in step.json_files if not file.is_complete()]
    work = [(job, todo) for job, todo in zip(step.jobs, unfinished, strict=True) if todo or stale]
    if not dry_run:
        folders = {target.parent for job in step.jobs for target in job.targets}
        for folder in sorted(folders | {file.path.parent for file in step.json_files}):
            make_folder(folder)
    if not dry_run and work:
        # Nothing is kept of jobs whose results no file needs.
        results = [r for r in _with_progress(step, workers.map(work), len(work)) if stale]
        for file in stale:
            content = json.dumps(file.build(results), separators=(",", ":"))
            write_file(file.path, content.encode())
        _check_complete(step)
    return [*_count_lines(step, unfinished, stale, dry_run), *_strange_files(step)]


def _with_progress(step: Step, results: Iterator[Any], count: int) -> Iterable[Any]:
    done = len(step.jobs) - count
    return tqdm(results, step.title, total=len(step.jobs), initial=done, unit=" images")


def _make(work: tuple[Job, Collection[Path]]) -> Any:
    job, unfinished = work
    return job.make(unfinished)


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent process, use one core, and end if the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if multiprocessing.get_start_method() != "forkserver":  # there, another process is the parent
        threading.Thread(target=watch, daemon=True).start()


def _check_complete(step: Step) -> None:
    files = [target for job in step.jobs for target in job.targets]
    missing = [path for path in files if not is_finished(path)]
    missing += [file.path for file in step.json_files if not is_finished(file.path)]
    if missing:
        raise UserError(
            f"{len(missing)} files are not there although they were written, the first is "
            f"{missing[0]}; does something else work in this folder? Run the same command again"
        )


def _count_lines(
    step: Step, unfinished: Sequence[Collection[Path]], stale: Sequence[JsonFile], dry_run: bool
) -> list[str]:
    done = "would write" if dry_run else "wrote"
    written = Counter(target.parent for todo in unfinished for target in todo)
    every = Counter(target.parent for job in step.jobs for target in job.targets)
    lines = [
        f"{folder}: {done} {written[folder]} files, {every[folder] - written[folder]} were finished"
        for folder in sorted(every)
    ]
    for file in step.json_files:
        lines.append(f"{file.path}: {done if file in stale else 'was finished'}")
    return lines


def _strange_files(step: Step) -> list[str]:
    if not step.own_folders:
        return []
    ours: dict[Path, set[str]] = {}
    for job in step.jobs:
        for target in job.targets:
            ours.setdefault(target.parent, set()).add(target.name)
    lines = []
    for folder, names in sorted(ours.items()):
        found = os.listdir(folder) if folder.is_dir() else []
        strange = [name for name in found if name not in names and not name.startswith(".")]
        if strange:
            lines.append(
                f"{folder}: has {len(strange)} files that are not of the raw data, for example "
                f"{min(strange)}; results would count them, remove them if you did not add them"
            )
    return lines
