"""Stored results of finished data sets, and what they depend on."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ita.classes import ClassList
from ita.config import flatten
from ita.data.records import FILE_KEYS, Record
from ita.files import PACKAGE, find_file, write_atomically

RESULTS_FILE = "results.json"
# Entry of a results file's "run" that describes a finished data set.
FINISHED = "reproduction"
# Packages whose versions can change results.
PACKAGES = ("torch", "torchvision", "detectron2", "open_clip_torch", "timm", "numpy", "Pillow")
# Keys without an influence on results, or with an influence that is described separately.
IRRELEVANT_KEYS = frozenset({
    "DATALOADER.NUM_WORKERS",
    "DATASETS.TEST",
    "DATASETS.TEST_VOCABULARY",
    "DATASETS.TRAIN_VOCABULARY",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "TEST.NUM_PICTURES",
})  # fmt: skip
# Keys that may name files.
FILES_IN_KEYS = (
    "MODEL.FC_CLIP.CLIP_MODEL_NAME",
    "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS",
    "MODEL.ITA.NAME_TABLE",
)
_CHUNK = 1 << 24


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package and of those that determine its results."""
    found = {}
    for package in ("ita", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def dependencies_of_run(
    cfg: CfgNode, checkpoint_hash: str, train_class_list: ClassList, device: str
) -> dict[str, str]:
    """Describe what the results of all data sets depend on.

    Returns:
        Name for readers -> value that changes with it.
    """
    settings = dict(flatten(cfg))
    relevant = {key: value for key, value in settings.items() if key not in IRRELEVANT_KEYS}
    named = [find_file(str(settings[key])) for key in FILES_IN_KEYS if settings[key]]
    code = sorted(PACKAGE.glob("**/*.py"))
    return {
        "checkpoint": checkpoint_hash,
        "training class list": _hash(train_class_list.to_dict()),
        "config": _hash(relevant),
        "files of the CLIP": _hash(_states(_files_below(named))),
        "code": _hash([hash_file(path) for path in code]),
        "versions": _hash(versions()),
        "device": device,
    }


def dependencies_of_set(class_list: ClassList, records: Sequence[Record]) -> dict[str, str]:
    """Describe what the results of a data set depend on, besides those of the run."""
    paths = [Path(record[key]) for record in records for key in FILE_KEYS if key in record]
    return {"class list": _hash(class_list.to_dict()), "data": _hash(_states(paths))}


def read_finished(folder: Path) -> dict[str, Any]:
    """Read the results of a finished data set; {} if there are none.

    Returns:
        The content of the results file, with "results", "date" and the entry ``FINISHED`` of "run".
    """
    try:
        content = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    run = content.get("run") if isinstance(content, dict) else None
    return content if isinstance(run, dict) and FINISHED in run else {}


def mark_finished(folder: Path, finished: Mapping[str, Any]) -> None:
    """Add the entry ``FINISHED`` to the results file of a data set, atomically."""
    path = folder / RESULTS_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content["run"][FINISHED] = dict(finished)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def changes(finished: Mapping[str, Any], dependencies: Mapping[str, str]) -> list[str]:
    """Names of the dependencies that have changed since results were stored."""
    stored = finished["run"][FINISHED]["dependencies"]
    return [name for name, value in dependencies.items() if stored.get(name) != value]


def _files_below(paths: Iterable[Path]) -> Iterable[Path]:
    """Yield the files among the paths, and those in the folders among them."""
    for path in paths:
        if os.path.isdir(path):
            yield from sorted(p for p in path.glob("**/*") if p.is_file())
        elif os.path.isfile(path):
            yield path


def _states(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size in bytes and time of change of files."""
    stats = ((str(path), path.stat()) for path in paths)
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
