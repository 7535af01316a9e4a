"""Which checkpoint of a folder a run resumes from, and which ones are kept."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detectron2.utils import comm

from ita.engine.checkpoint import LAST_CHECKPOINT, check_finite, check_intact, read_checkpoint
from ita.engine.launch.waiting import name_ranks
from ita.errors import UserError, WriteError, reason_of

logger = logging.getLogger(__name__)

# Names of periodic checkpoints, with their last iteration, and of the last one of a run.
PERIODIC = re.compile(r"model_(\d{7,})\.pth")
FINAL = "model_final.pth"
# Key of the training state in a checkpoint.
TRAINER = "trainer"
# Maximum number of problems in an error.
MAX_LISTED = 3


def find_resumable(folder: Path) -> Path | None:
    """Find the checkpoint that a run resumes from; what is wrong with others is logged.

    It is the one that ``last_checkpoint`` names or, if that is not possible, the intact one with
    the most iterations.

    Args:
        folder: folder of the run.

    Returns:
        None if the folder has no checkpoints.

    Raises:
        UserError: none of the folder's checkpoints is intact.
    """
    files = [path for path in folder.glob("model_*.pth") if _is_resumable(path.name)]
    if not files and not (folder / LAST_CHECKPOINT).exists():
        return None
    named, problem = _named_checkpoint(folder)
    if named is not None and not (problem := _problem(named)):
        return named
    problems = [problem]
    for _, path in sorted(_by_iteration([p for p in files if p != named], problems), reverse=True):
        if not (problem := _problem(path)):
            for line in problems:
                logger.warning("%s", line)
            logger.warning("resuming from the newest intact checkpoint, %s", path)
            return path
        problems.append(problem)
    more = f" and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    raise UserError(
        f"no checkpoint to resume from in {folder}: {'; '.join(problems[:MAX_LISTED])}{more}; to "
        "train anew, choose another OUTPUT_DIR or pass --overwrite instead of --resume"
    )


def agree_on_resumable(folder: Path) -> Path | None:
    """Find the checkpoint to resume from; the main process looks, and tells all others.

    Raises:
        UserError: see :func:`find_resumable`; or another process does not see this checkpoint.
    """
    found = find_resumable(folder) if comm.is_main_process() else None
    name = comm.all_gather(found.name if found else "")[0]
    if not name:
        return None
    sizes = comm.all_gather(_size(folder / name))
    if blind := [rank for rank, size in enumerate(sizes) if size != sizes[0]]:
        raise UserError(
            f"{name_ranks(blind, len(sizes))} cannot see {folder / name} as rank 0 does: all "
            "machines must see the same OUTPUT_DIR, on a shared file system"
        )
    return folder / name


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@dataclass(frozen=True)
class Retention:
    """Which periodic checkpoints of a run are kept besides the newest one.

    Attributes:
        last: number of newest ones; 0 keeps all.
        every: keep also those after a multiple of so many iterations; 0 for none.
    """

    last: int = 0
    every: int = 0

    def apply(self, newest: Path) -> None:
        """Remove the checkpoints before the newest one that are not kept.

        Those with more iterations stay: a run that was resumed from before them may need them.

        Args:
            newest: the checkpoint just written, in the run's folder.

        Raises:
            WriteError: one cannot be removed.
        """
        if not self.last:
            return
        numbered = sorted(
            (int(match.group(1)) + 1, path)
            for path in newest.parent.iterdir()
            if (match := PERIODIC.fullmatch(path.name))
        )
        if match := PERIODIC.fullmatch(newest.name):
            numbered = [entry for entry in numbered if entry[0] <= int(match.group(1)) + 1]
        for finished, path in numbered[: -self.last]:
            if not self.every or finished % self.every:
                logger.info("Removing checkpoint %s", path)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise WriteError(f"cannot remove {path}: {reason_of(error)}") from error


def _is_resumable(name: str) -> bool:
    return name == FINAL or PERIODIC.fullmatch(name) is not None


def _named_checkpoint(folder: Path) -> tuple[Path | None, str]:
    """Return the existing file that ``last_checkpoint`` names, or None and what is wrong."""
    path = folder / LAST_CHECKPOINT
    try:
        name = path.read_bytes().decode().strip()
    except FileNotFoundError:
        return None, f"{path} is missing"
    except OSError as error:
        return None, f"cannot read {path}: {reason_of(error)}"
    except UnicodeDecodeError:
        return None, f"{path} is damaged: it is not UTF-8"
    if not name:
        return None, f"{path} is empty"
    if "\0" in name or Path(name).name != name:
        return None, f"{path} is damaged: it has {name[:80]!r} instead of the name of a file"
    if not os.path.isfile(folder / name):
        return None, f"{folder / name[:80]}, which {LAST_CHECKPOINT} names, does not exist"
    return folder / name, ""


def _by_iteration(files: list[Path], problems: list[str]) -> Iterator[tuple[int, Path]]:
    """Yield readable files with their last iteration, which is read without the weights."""
    for path in files:
        try:
            yield int(read_checkpoint(path, verify=False)["iteration"]), path
        except UserError as error:
            problems.append(str(error))
        except (KeyError, TypeError, ValueError):
            problems.append(f"checkpoint {path} has no iteration")


def _problem(path: Path) -> str:
    """Say why a run cannot resume from a checkpoint; "" if it can."""
    try:
        check_intact(path)
        content = read_checkpoint(path, verify=False)
        check_finite(content["model"], path)
    except UserError as error:
        return str(error)
    return "" if TRAINER in content else f"{path} has weights but no training state"
