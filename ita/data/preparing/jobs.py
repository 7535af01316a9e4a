"""Preparation jobs, run in several processes; finished outputs are skipped."""

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
from ita.structured_files import parse_json


class Job(Protocol):
    """Preparation of one image. Sent to another process, so it should be small."""

    @property
    def targets(self) -> tuple[Path, ...]:
        """Files that the job writes."""

    def make(self, unfinished: Collection[Path]) -> Any:
        """Write the ``unfinished`` targets, possibly none.

        Returns:
            Data of this image for the step's json files, whether or not a target is unfinished.

        Raises:
            UserError: an unusable raw file, or a target that cannot be written.
        """


@dataclass(frozen=True)
class JsonFile:
    """A json file over all images of a step, built from the results of the jobs.

    Attributes:
        images: ``file_name`` of all its ``images``; a file with other images is rewritten.
        build: results of the jobs, in order -> content.
    """

    path: Path
    images: frozenset[str]
    build: Callable[[Sequence[Any]], dict[str, Any]]

    def is_complete(self) -> bool:
        """Whether the file exists and describes exactly these images."""
        try:
            content = parse_json(self.path.read_bytes())
            return {image["file_name"] for image in content["images"]} == self.images
        except (OSError, ValueError, KeyError, TypeError):
            return False


@dataclass(frozen=True)
class Step:
    """A part of a data set's preparation.

    Attributes:
        title: title of the progress bar.
        json_files: files written after all jobs.
        own_folders: the target folders hold nothing else, so unexpected files are reported.
    """

    title: str
    jobs: Sequence[Job]
    json_files: tuple[JsonFile, ...] = ()
    own_folders: bool = True


@dataclass(frozen=True)
class Plan:
    """Steps of a data set's preparation, and notes on skipped outputs with the reason."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


class Workers:
    """Worker processes for jobs; started when there is work, and only for more than one worker.

    Each uses one core, and so does this process in the meantime: a process that is forked while
    OpenCV has threads waits for them forever.
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
        """Yield the results of the jobs, in order; the first error ends the iteration.

        Raises:
            UserError: an error of a job, or a worker process that died.
        """
        if self._count == 1 or len(work) < 2:
            yield from map(_make, work)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._count, initializer=_start_worker, initargs=(os.getpid(),)
            )
        # Jobs in one message share common objects, such as their tables.
        chunk = max(1, min(16, len(work) // (4 * self._count)))
        try:
            yield from self._pool.map(_make, work, chunksize=chunk)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, possibly out of memory; run the same command again with "
                "fewer --workers: finished files are kept"
            ) from error


def run_step(step: Step, workers: Workers, *, dry_run: bool = False) -> list[str]:
    """Write the unfinished outputs of a step.

    Args:
        dry_run: only report the outputs that would be written.

    Returns:
        Lines that report written, finished and unexpected files per folder, and json files.

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
        # Results are kept only if a json file needs them.
        results = [r for r in _with_progress(step, workers.map(work), len(work)) if stale]
        for file in stale:
            content = json.dumps(file.build(results), separators=(",", ":"))
            write_file(file.path, content.encode())
        _check_complete(step)
    return [*_count_lines(step, unfinished, stale, dry_run), *_unexpected_files(step)]


def _with_progress(step: Step, results: Iterator[Any], count: int) -> Iterable[Any]:
    done = len(step.jobs) - count
    return tqdm(results, step.title, total=len(step.jobs), initial=done, unit=" images")


def _make(work: tuple[Job, Collection[Path]]) -> Any:
    job, unfinished = work
    return job.make(unfinished)


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent process, use one core, and exit if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if multiprocessing.get_start_method() != "forkserver":  # the fork server would be the parent
        threading.Thread(target=watch, daemon=True).start()


def _check_complete(step: Step) -> None:
    files = [target for job in step.jobs for target in job.targets]
    missing = [path for path in files if not is_finished(path)]
    missing += [file.path for file in step.json_files if not is_finished(file.path)]
    if missing:
        raise UserError(
            f"{len(missing)} files are missing although they were written, the first is "
            f"{missing[0]}; is another program changing this folder? Run the same command again"
        )


def _count_lines(
    step: Step, unfinished: Sequence[Collection[Path]], stale: Sequence[JsonFile], dry_run: bool
) -> list[str]:
    verb = "would write" if dry_run else "wrote"
    written = Counter(target.parent for todo in unfinished for target in todo)
    total = Counter(target.parent for job in step.jobs for target in job.targets)
    lines = [
        f"{folder}: {verb} {written[folder]} files, {total[folder] - written[folder]} were finished"
        for folder in sorted(total)
    ]
    for file in step.json_files:
        lines.append(f"{file.path}: {verb if file in stale else 'was finished'}")
    return lines


def _unexpected_files(step: Step) -> list[str]:
    if not step.own_folders:
        return []
    expected: dict[Path, set[str]] = {}
    for job in step.jobs:
        for target in job.targets:
            expected.setdefault(target.parent, set()).add(target.name)
    lines = []
    for folder, names in sorted(expected.items()):
        found = os.listdir(folder) if folder.is_dir() else []
        unexpected = [name for name in found if name not in names and not name.startswith(".")]
        if unexpected:
            lines.append(
                f"{folder}: has {len(unexpected)} files that are not from the raw data, such as "
                f"{min(unexpected)}; they would count in results, remove them unless you added them"
            )
    return lines
