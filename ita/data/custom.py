"""Custom data sets, described by YAML files."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ita.classes import read_class_list, shipped_class_lists
from ita.data.catalogue import (
    ROOT_VARIABLE,
    SEMANTIC,
    TEST_SIZE,
    VOID_16_BIT,
    DatasetRow,
    LabelFolder,
    datasets_root,
)
from ita.data.orientation import LABEL_ORIENTATIONS, STORED
from ita.errors import UserError, did_you_mean, shown
from ita.files import find_file
from ita.structured_files import read_yaml

VOID_8_BIT = 255
BELOW_ROOT = f"${ROOT_VARIABLE}/"
MAX_NAMES_SHOWN = 20
# Limits of Linux: characters of a path, bytes of a name in it.
_LONGEST_PATH, _LONGEST_NAME = 4096, 255


def read_custom(path: str | Path) -> list[DatasetRow]:
    """Read the rows of a YAML file: ``NAME: {KEY: value, ...}`` for each data set.

    The keys are those of ``KEYS``. Paths are relative to the file's folder, or to the folder of all
    data sets if they begin with ``$DETECTRON2_DATASETS/``.

    Raises:
        UserError: an unreadable or invalid file (names the file, the entry and the error).
    """
    path = find_file(path).absolute()
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path} describes no data set; write 'NAME:' and 'KEY: value' lines below it"
        )
    names = [str(name) for name in content]
    # Results are in folders of these names.
    if wrong := [n for n in names if "/" in n or n in (".", "..") or not _is_path(n)]:
        raise UserError(
            f"{path}: data set {shown(wrong[0])} must have a name that a folder can have"
        )
    return [_row(name, keys, path) for name, keys in zip(names, content.values(), strict=True)]


def _row(name: str, keys: Any, path: Path) -> DatasetRow:
    where = f"{path}: data set {name}"
    if not isinstance(keys, Mapping):
        raise UserError(f"{where} has no keys; write 'KEY: value' lines below its name")
    for key, value in keys.items():
        if key not in KEYS:
            raise UserError(f"{where} has an unknown key {key}{_hint(str(key), KEYS)}")
        is_valid, expected = KEYS[key]
        if not is_valid(value):
            raise UserError(f"{where}: {key} is {shown(value)}; it must be {expected}")
    _check_complete(keys, where)

    def file(key: str) -> str:
        value = keys.get(key, "")
        if value.startswith(BELOW_ROOT):
            return value.removeprefix(BELOW_ROOT)
        return str(path.parent / Path(value).expanduser()) if value else ""

    # Read now, unlike the other files, which are looked for when the set is loaded.
    class_list_file = keys["class_list"]
    if class_list_file not in shipped_class_lists():
        class_list_file = str(datasets_root() / file("class_list"))
    class_list = read_class_list(class_list_file)
    labels = LabelFolder(
        file("label_root"),
        contiguous=False,
        ignored=tuple(keys.get("ignored_values", (VOID_8_BIT,))),
        suffix=keys.get("label_suffix", ".png"),
        made_by=keys.get("made_by", ""),
    )
    return DatasetRow(
        name=name,
        class_list=class_list_file,
        image_root=file("image_root"),
        things=_thing_ids(keys.get("things", ()), class_list.names, where),
        panoptic_root=file("panoptic_root"),
        panoptic_json=file("panoptic_json"),
        panoptic_made_by=keys.get("made_by", ""),
        instances_json=file("instances_json"),
        instances_made_by=keys.get("made_by", ""),
        label_folders=(labels,) if labels.path else (),
        ignore_label=VOID_8_BIT if len(class_list) <= VOID_8_BIT else VOID_16_BIT,
        label_orientation=keys.get("label_orientation", STORED),
        evaluator_type="coco_panoptic_seg" if "panoptic_json" in keys else SEMANTIC,
        test_size=tuple(keys.get("test_size", TEST_SIZE)),
        described_in=str(path),
    )


def _is_path(value: Any) -> bool:
    """Whether a value can name a file: functions of paths raise errors for all others."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        parts = [os.fsencode(part) for part in Path(value).parts]
    except UnicodeEncodeError:
        return False
    short = all(len(part) <= _LONGEST_NAME for part in parts)
    return short and len(os.fsencode(value)) < _LONGEST_PATH


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(type(v) is kind for v in value)


_PATH = (_is_path, "a path")
# YAML key of a data set -> validation of its value, and a description of valid values.
KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "class_list": _PATH,
    "image_root": _PATH,
    "label_root": _PATH,
    "label_suffix": (_is_path, "the end of the label map file names, such as .png"),
    "ignored_values": (_is_list_of(int), "a list of label values, such as [0, 255]"),
    "label_orientation": (
        lambda value: value in LABEL_ORIENTATIONS,
        " or ".join(LABEL_ORIENTATIONS),
    ),
    "panoptic_root": _PATH,
    "panoptic_json": _PATH,
    "instances_json": _PATH,
    "things": (_is_list_of(str), "a list of class names, such as [cat, dog], or []"),
    "made_by": (_is_text, "the command that creates the files"),
    "test_size": (
        lambda value: _is_list_of(int)(value) and len(value) == 2 and 0 < value[0] <= value[1],
        "short side and maximum long side in pixels, such as [800, 1333]",
    ),
}


def _check_complete(keys: Collection[str], where: str) -> None:
    for key in ("class_list", "image_root"):
        if key not in keys:
            raise UserError(f"{where} lacks {key}")
    if "label_root" not in keys and "panoptic_json" not in keys:
        raise UserError(
            f"{where} has no labels; specify label_root, or panoptic_json and panoptic_root"
        )
    if ("panoptic_json" in keys) != ("panoptic_root" in keys):
        raise UserError(f"{where}: panoptic_json and panoptic_root go together")
    if "panoptic_json" in keys and "things" not in keys:
        raise UserError(
            f"{where} lacks things: a list of the classes with instances, or [] for none"
        )


def _thing_ids(things: Sequence[str], names: Sequence[str], where: str) -> tuple[int, ...]:
    for thing in things:
        if thing not in names:
            hint = _hint(thing, names)
            raise UserError(f"{where}: thing {thing} is not the first name of a class{hint}")
    return tuple(names.index(thing) for thing in things)


def _hint(word: str, known: Collection[str]) -> str:
    every = f"expected one of {', '.join(known)}" if len(known) <= MAX_NAMES_SHOWN else ""
    hint = did_you_mean(word, known) or every
    return f"; {hint}" if hint else ""
