"""Remedies for missing and bad files of data sets, the same in error messages and checks."""

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ita.data.catalogue import ROOT_VARIABLE, DatasetRow, datasets_root
from ita.data.locate import Located
from ita.errors import UserError

DOWNLOAD_AGAIN = "unpack or download it again (dataset.md)"
# Keys of a custom data set that determine the meaning of its label maps.
_LABEL_KEYS = "label_root, class_list or ignored_values"


class DatasetError(UserError):
    """A data set cannot be used, because of missing files.

    Attributes:
        problem: what is missing.
        remedy: how to provide it.
    """

    def __init__(self, problem: str, row: DatasetRow, remedy: str) -> None:
        place = ""
        if not os.path.isabs(row.image_root):
            place = f"{ROOT_VARIABLE} ({datasets_root()}) is the folder of all data sets; "
        super().__init__(f"{problem}; {place}{remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True)
class Preparation:
    """What the command that prepares a benchmark can still do.

    Attributes:
        num_images: number of downloaded images that it prepares.
        num_unfinished: number of files that it would write.
        obstacle: missing downloaded files that prevent it, with the remedy; "" if none.
    """

    num_images: int = 0
    num_unfinished: int = 0
    obstacle: str = ""


def inspect_preparation(row: DatasetRow) -> Preparation:
    """Inspect the files that a benchmark's preparation reads and writes.

    Takes seconds for a large set, so only data sets with a problem are inspected.
    """
    if not row.preparation:
        return Preparation()
    # Imported here because training does not need it.
    from ita.data.preparing.run import count_remaining

    module = importlib.import_module(f"ita.data.preparing.{row.preparation}")
    try:
        return Preparation(*count_remaining(module.plan(datasets_root(), row.split)))
    except UserError as error:
        return Preparation(obstacle=str(error))


def command_of(row: DatasetRow) -> str:
    """Command that creates files of a data set; "" if none does."""
    commands = [row.panoptic_made_by, *(folder.made_by for folder in row.label_folders)]
    return next(filter(None, commands), "")


def remedy_for_set(located: Located, preparation: Preparation | None = None) -> str:
    """How to provide the missing images or labels of a data set.

    Args:
        preparation: state of the set's preparation, if it is known already.
    """
    row, command = located.row, command_of(located.row)
    if not row.family:
        keys = _missing_keys(located)
        return f"run: {command}" if command else _correct(row, keys, "provide the files")
    preparation = preparation or inspect_preparation(row)
    needs_preparation = not _is_readable_unprepared(row)
    if needs_preparation and preparation.num_unfinished:
        return f"run: {command}"
    if missing := _missing_paths(row.download):
        then = needs_preparation or not _has_downloaded_images(located)
        return _download(missing, command if then else "")
    uses_prepared = located.labels is not None and located.labels.made_by
    if uses_prepared and preparation.num_unfinished:
        return f"run: {command}"
    return preparation.obstacle or DOWNLOAD_AGAIN


def remedy_for_rest(located: Located, *, usable: bool) -> str:
    """How to complete a benchmark with fewer images than published.

    Args:
        usable: the existing images can be used.
    """
    command = located.labels.made_by if located.labels is not None else ""
    accept = "accept a part of the data set with --subset, or " if usable else ""
    return accept + _download(["the others"], command)


def remedy_for_file(located: Located, path: str) -> str:
    """How to replace a bad or missing file of a data set."""
    row, labels = located.row, located.labels
    folders = [
        ("panoptic_root", row.panoptic_root, row.panoptic_made_by),
        ("panoptic_json", row.panoptic_json, row.panoptic_made_by),
        ("instances_json", row.instances_json, row.instances_made_by),
    ]
    if labels is not None:
        folders.append((_LABEL_KEYS, labels.path, labels.made_by))
    command = "" if _has_downloaded_images(located) else command_of(row)
    folders.append(("image_root", str(located.image_root), command))
    # A link in a prepared folder of a benchmark leads to the downloaded file.
    follow = Path.resolve if row.family else Path.absolute
    file, root = follow(Path(path)), follow(located.root)
    inside = [f for f in folders if f[1] and file.is_relative_to(follow(root / f[1]))]
    keys, _, command = inside[0] if inside else ("the paths", "", "")
    if command:
        return f"remove it, if it exists, then run: {command}"
    if not row.family:
        return _correct(row, keys, "replace the file")
    if file != Path(path).absolute() and file.is_relative_to(root):
        return f"unpack or download {file.relative_to(root)} again (dataset.md)"
    return DOWNLOAD_AGAIN


def remedy_for_annotations(row: DatasetRow, path: str) -> str:
    """How to provide a data set's panoptic or instances json, which is optional."""
    key, command = "panoptic_json and panoptic_root", row.panoptic_made_by
    if path == row.instances_json:
        key, command = "instances_json", row.instances_made_by
    if not row.family:
        return f"run: {command}" if command else _correct(row, key, "provide it")
    if not command:
        return _download([path])
    missing = _missing_paths(row.optional_download)
    return _download(missing, command) if missing else f"run: {command}"


def describe_missing(missing: Iterable[tuple[str, str]]) -> list[str]:
    """Describe missing files, given as (path, remedy): one sentence for each remedy."""
    paths: dict[str, list[str]] = {}
    for path, remedy in missing:
        paths.setdefault(remedy, []).append(path)
    return [
        f"{' and '.join(files)} {'do' if len(files) > 1 else 'does'} not exist; {remedy}"
        for remedy, files in paths.items()
    ]


def _is_readable_unprepared(row: DatasetRow) -> bool:
    raw_labels = any(not folder.made_by for folder in row.label_folders)
    return raw_labels or bool(row.panoptic_json and not row.panoptic_made_by)


def _has_downloaded_images(located: Located) -> bool:
    """Whether the images are those of the download: others are copied or linked from there."""
    downloads = (located.root / path for path in located.row.download)
    return any(located.image_root.is_relative_to(path) for path in downloads)


def _missing_paths(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not (datasets_root() / path).exists()]


def _download(paths: Iterable[str], command: str = "") -> str:
    remedy = f"download {', '.join(paths)} (dataset.md)"
    return f"{remedy}, then run: {command}" if command else remedy


def _missing_keys(located: Located) -> str:
    """Keys of a custom data set whose files are missing."""
    row = located.row
    if not located.image_root.is_dir():
        return "image_root"
    keys = ["label_root"] if row.label_folders and located.labels is None else []
    if row.panoptic_json and not located.panoptic:
        keys += ["panoptic_json", "panoptic_root"]
    return ", ".join(keys) or "the paths"


def _correct(row: DatasetRow, keys: str, action: str) -> str:
    """Remedy for one's own data: the files, or the keys that describe them."""
    if not row.described_in:
        return f"{action}, or register data set {row.name} with other paths"
    return f"{action}, or correct {keys} of {row.name} in {row.described_in}"
