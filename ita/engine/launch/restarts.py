"""Whether a job that was started again has begun its run before, which it then continues."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from detectron2.utils import comm

from ita.engine.launch.place import Place, join_store
from ita.engine.run_folder import JOB
from ita.errors import UserError, reason_of
from ita.files import write_atomically
from ita.submission import RESTARTS, RUN_ID, SUBMITTED

# Key of torchrun's store, which lives as long as the job, with a name of it.
_NAME = "ita/job"
_STORE_SECONDS = 10.0


def is_restarted(folder: Path, place: Place | None) -> bool:
    """Whether an earlier start of this job has begun the run in a folder; for every process.

    Args:
        folder: the run's folder.
        place: of this process among those that torchrun or srun started; None for no others.
    """
    restarted = False
    if comm.is_main_process():
        begun = _read(folder / JOB)
        restarted = any(
            name in begun and (restarts is None or begun[name] < restarts)
            for name, restarts in _names(place)
        )
    return any(comm.all_gather(restarted))


def mark_begun(folder: Path, place: Place | None) -> None:
    """Note that what is in the run's folder from now on is of this job; on the main process.

    Raises:
        UserError: the folder cannot be written.
    """
    names = "".join(f"{name} {restarts or 0}\n" for name, restarts in _names(place))
    if names or (folder / JOB).exists():
        write_atomically(folder / JOB, names.encode())


def _names(place: Place | None) -> Iterator[tuple[str, int | None]]:
    """Yield names of this job, and how often it was started again.

    Several commands in one job of SLURM have the same name, and one start of it. None stands for a
    name that one command has.
    """
    if place is not None and not place.hosts_store:
        store = join_store(place.address, place.port, _STORE_SECONDS)
        yield f"torchrun {store.compare_set(_NAME, '', uuid.uuid4().hex).decode()}", None
    elif (name := os.environ.get(RUN_ID, "")).startswith(SUBMITTED):
        yield name, int(os.environ.get(RESTARTS, "0"))
    if "SLURM_JOB_ID" in os.environ:
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        yield f"slurm {os.environ['SLURM_JOB_ID']}", restarts


def _read(path: Path) -> dict[str, int]:
    """Read names with the number of restarts; lines that are damaged are left out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason_of(error)}") from error
    parts = [line.rpartition(" ") for line in lines]
    return {name: int(restarts) for name, _, restarts in parts if restarts.isdecimal()}
