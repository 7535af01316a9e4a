"""Stored results of finished data sets, and what they depend on."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ita.classes import ClassList
from ita.config import flatten
from ita.data.catalogue import DatasetRow, datasets_root
from ita.data.records import FILE_KEYS, Record
from ita.errors import UserError
from ita.files import PACKAGE, find_file, sha256_of, write_atomically
from ita.installing import installed_versions
from ita.modeling.clip_files import find_local_weights
from ita.modeling.clip_weights import CONFIG_FILE, RANDOM
from ita.reports.result_files import RESULTS_FILE, read_results
from ita.structured_files import parse_json

# Entry of a results file's "run" that describes a finished data set.
FINISHED = "reproduction"
# Keys without an influence on results, or with an influence that is described separately.
IRRELEVANT_KEYS = frozenset({
    "DATALOADER.CHECK_FILES",
    "DATALOADER.MAX_BAD_IMAGES",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.ON_ERROR",
    "DATASETS.TEST",
    "DATASETS.TEST_VOCABULARY",
    "DATASETS.TRAIN_VOCABULARY",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "SOLVER.TRACKER",
    "TEST.NUM_PICTURES",
    "TEST.REPORT",
})  # fmt: skip
# Keys that may name files, besides the weights of CLIP.
FILES_IN_KEYS = ("MODEL.FC_CLIP.CLIP_MODEL_NAME", "MODEL.ITA.NAME_TABLE")


def dependencies_of_run(
    cfg: CfgNode, checkpoint_hash: str, train_class_list: ClassList, device: str
) -> dict[str, str]:
    """Describe what the results of all data sets depend on.

    Returns:
        Name for readers -> value that changes with it.

    Raises:
        UserError: the name of the CLIP weights is neither a file, a folder nor a tag.
    """
    code = sorted(PACKAGE.glob("**/*.py"))
    return {
        "checkpoint": checkpoint_hash,
        "training class list": _hash(_content(train_class_list)),
        "files of the CLIP": _hash([_state(path, path.name) for path in _files_of_clip(cfg)]),
        "code": _hash([sha256_of(path) for path in code]),
        "versions": _hash(installed_versions()),
        "device": device,
    }


def dependencies_of_set(
    cfg: CfgNode, class_list: ClassList, row: DatasetRow, records: Sequence[Record]
) -> dict[str, str]:
    """Describe what the results of a data set depend on, besides those of the run.

    Args:
        cfg: config of the data set's evaluation.
        class_list: its class list.
        row: the data set.
        records: records of its images.
    """
    settings = {key: value for key, value in flatten(cfg) if key not in IRRELEVANT_KEYS}
    root = datasets_root()
    paths = [Path(record[key]) for record in records for key in FILE_KEYS if key in record]
    paths += [root / path for path in (row.panoptic_json, row.instances_json) if path]
    return {
        "class list": _hash(_content(class_list)),
        "config": _hash(settings),
        # Relative paths, since the root may be written in several ways.
        "data": _hash([_state(path, os.path.relpath(path, root)) for path in paths]),
    }


def read_finished(folder: Path) -> dict[str, Any]:
    """Read the results of a finished data set; {} if there are none.

    Returns:
        The content of the results file, with "results", "date" and the entry ``FINISHED`` of "run".
    """
    try:
        content = read_results(folder)
    except UserError:
        return {}
    finished = content["run"].get(FINISHED)
    dependencies = finished.get("dependencies") if isinstance(finished, dict) else None
    return content if isinstance(dependencies, dict) else {}


def mark_finished(folder: Path, finished: Mapping[str, Any]) -> None:
    """Add the entry ``FINISHED`` to the results file of a data set, atomically."""
    path = folder / RESULTS_FILE
    content = parse_json(path.read_text(encoding="utf-8"))
    content["run"][FINISHED] = dict(finished)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def changes(finished: Mapping[str, Any], dependencies: Mapping[str, str]) -> list[str]:
    """Names of the dependencies that have changed since results were stored."""
    stored = finished["run"][FINISHED]["dependencies"]
    return [name for name, value in dependencies.items() if stored.get(name) != value]


def _files_of_clip(cfg: CfgNode) -> list[Path]:
    """Existing files that define the CLIP of a config; nothing is downloaded."""
    settings = dict(flatten(cfg))
    paths = [find_file(str(settings[key])) for key in FILES_IN_KEYS if settings[key]]
    clip = cfg.MODEL.FC_CLIP
    if clip.CLIP_PRETRAINED_WEIGHTS != RANDOM:
        weights = find_local_weights(clip.CLIP_MODEL_NAME, clip.CLIP_PRETRAINED_WEIGHTS)
        # A config beside the weights describes them.
        paths += [weights, weights.parent / CONFIG_FILE] if weights else []
    return [path for path in paths if os.path.isfile(path)]


def _state(path: Path, name: str) -> tuple[str, int, int]:
    """Name, size in bytes and time of change of a file; -1 if it does not exist."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return name, -1, -1
    return name, stat.st_size, stat.st_mtime_ns


def _content(class_list: ClassList) -> dict[str, Any]:
    """Content of a class list without its name, which may be written in several ways."""
    content = {**class_list.to_dict(), "label_ids": class_list.label_ids}
    return {key: value for key, value in content.items() if key != "name"}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
