"""The data sets: one table of rows, from which Detectron2's catalogs are filled.

A set is a row and a class list file. Paths are relative to the folder that the environment variable
DETECTRON2_DATASETS names ("datasets" if unset), which is read when a set is loaded.
"""

import colorsys
import difflib
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ita.data.class_lists import parse_class_list, read_class_list
from ita.data.reading import MAX_LABEL_VALUES
from ita.data.records import (
    Record,
    check_a_handful,
    load_panoptic_records,
    load_semantic_records,
)
from ita.errors import UserError
from ita.modeling.vocabulary import ClassList

ROOT_VARIABLE = "DETECTRON2_DATASETS"


@dataclass(frozen=True)
class LabelFolder:
    """A folder of label PNGs and what their values mean.

    Attributes:
        path: the folder.
        contiguous: values are 0 ... C-1 in the order of the class list, as prepared folders have
            them; else they are the ids of the class list file.
        ignored: values that mean "not labelled". Any other value is an error.
    """

    path: str
    contiguous: bool = True
    ignored: tuple[int, ...] = (255,)


@dataclass(frozen=True)
class DatasetRow:
    """A data set: where its files are, and how they are to be read.

    Attributes:
        name: the registered name.
        class_list: a list in ``vocabularies/`` or the path of a class list file.
        image_root: folder of the images.
        things: contiguous ids of the things; the other classes are stuff.
        panoptic_root: folder of the panoptic PNGs; empty if the set has none.
        panoptic_json: COCO panoptic json. Without this file a set is semantic only.
        contiguous_categories: category ids of the json files are contiguous ids, else the ids of
            the class list file.
        instances_json: COCO instances json, optional on disk.
        label_folders: semantic labels; the first folder that exists is used, and none is needed
            beside panoptic files.
        ignore_label: the class id that unlabelled pixels get.
        evaluator_type: the field's word for what a set can be evaluated on.
    """

    name: str
    class_list: str
    image_root: str
    things: tuple[int, ...] = ()
    panoptic_root: str = ""
    panoptic_json: str = ""
    contiguous_categories: bool = False
    instances_json: str = ""
    label_folders: tuple[LabelFolder, ...] = ()
    ignore_label: int = 255
    evaluator_type: str = "sem_seg"


# Contiguous ids of A-150's 50 stuff classes; the other 100 have instances.
_ADE150_STUFF = frozenset((
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60,
    61, 63, 68, 77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131,
    140, 141, 145,
))  # fmt: skip


def _coco_row(split: str) -> DatasetRow:
    return DatasetRow(
        name=f"openvocab_coco_2017_{split}_panoptic_with_sem_seg",
        class_list="coco133",
        image_root=f"coco/{split}2017",
        things=tuple(range(80)),
        panoptic_root=f"coco/panoptic_{split}2017",
        panoptic_json=f"coco/annotations/panoptic_{split}2017.json",
        instances_json=f"coco/annotations/instances_{split}2017.json",
        label_folders=(LabelFolder(f"coco/panoptic_semseg_{split}2017"),),
        evaluator_type="coco_panoptic_seg",
    )


def _ade150_row(split: str, folder: str) -> DatasetRow:
    ade = "ADEChallengeData2016"
    return DatasetRow(
        name=f"openvocab_ade20k_panoptic_{split}",
        class_list="ade150",
        image_root=f"{ade}/images/{folder}",
        things=tuple(i for i in range(150) if i not in _ADE150_STUFF),
        panoptic_root=f"{ade}/ade20k_panoptic_{split}",
        panoptic_json=f"{ade}/ade20k_panoptic_{split}.json",
        contiguous_categories=True,
        instances_json=f"{ade}/ade20k_instance_{split}.json",
        label_folders=(
            LabelFolder(f"{ade}/annotations_detectron2/{folder}"),
            LabelFolder(f"{ade}/annotations/{folder}", contiguous=False, ignored=(0,)),
        ),
        evaluator_type="ade20k_panoptic_seg",
    )


def _toy_row(split: str) -> DatasetRow:
    return DatasetRow(
        name=f"toy_{split}",
        class_list="toy",
        image_root=f"toy/toy_{split}",
        things=tuple(range(6)),
        panoptic_root=f"toy/panoptic_{split}",
        panoptic_json=f"toy/panoptic_{split}.json",
        instances_json=f"toy/instances_{split}.json",
        evaluator_type="coco_panoptic_seg",
    )


CATALOGUE: tuple[DatasetRow, ...] = (
    _coco_row("train"),
    _coco_row("val"),
    _ade150_row("train", "training"),
    _ade150_row("val", "validation"),
    _toy_row("train"),
    _toy_row("val"),
)


def register_all() -> None:
    """Register every row of the catalogue with Detectron2; calling it again changes nothing."""
    for row in CATALOGUE:
        register_row(row)


def register_row(row: DatasetRow) -> None:
    """Register a data set with Detectron2, in place of one of the same name.

    Raises:
        UserError: a bad class list file, or ids of the row that do not fit it.
    """
    metadata = _describe(row)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if row.name in catalog:
            catalog.remove(row.name)
    DatasetCatalog.register(row.name, functools.partial(load_dataset, row))
    MetadataCatalog.get(row.name).set(**metadata, **_paths_on_disk(row, metadata))


def register_panoptic(
    name: str,
    image_root: str | Path,
    panoptic_root: str | Path,
    panoptic_json: str | Path,
    class_list_file: str | Path,
    *,
    things: Sequence[int] = (),
    instances_json: str | Path = "",
    ignore_label: int = 255,
) -> None:
    """Register a set in COCO panoptic format by its paths.

    Args:
        class_list_file: its ids are the json's category ids.
        things: contiguous ids (0 is the first class of the list) of the classes with instances.
    """
    row = DatasetRow(
        name=name,
        class_list=str(class_list_file),
        image_root=os.path.abspath(image_root),
        things=tuple(things),
        panoptic_root=os.path.abspath(panoptic_root),
        panoptic_json=os.path.abspath(panoptic_json),
        instances_json=os.path.abspath(instances_json) if instances_json else "",
        ignore_label=ignore_label,
        evaluator_type="coco_panoptic_seg",
    )
    register_row(row)


def register_semantic(
    name: str,
    image_root: str | Path,
    label_root: str | Path,
    class_list_file: str | Path,
    *,
    ignored_values: Sequence[int] = (255,),
    ignore_label: int = 255,
) -> None:
    """Register a folder of images and one of label PNGs of the same stems.

    Args:
        class_list_file: its ids are the values of the label PNGs.
        ignored_values: PNG values that mean "not labelled".
    """
    folder = LabelFolder(
        os.path.abspath(label_root), contiguous=False, ignored=tuple(ignored_values)
    )
    row = DatasetRow(
        name=name,
        class_list=str(class_list_file),
        image_root=os.path.abspath(image_root),
        label_folders=(folder,),
        ignore_label=ignore_label,
    )
    register_row(row)


def load_dataset(row: DatasetRow) -> list[Record]:
    """Read a set's records; what Detectron2's DatasetCatalog calls.

    Raises:
        UserError: a folder or file that is not there (its path), or one that cannot be read.
    """
    root = datasets_root()
    hint = f"; {ROOT_VARIABLE} ({root}) is the folder that holds the data sets"
    if os.path.isabs(row.image_root):
        hint = ""
    metadata = MetadataCatalog.get(row.name)
    # The root may have changed since registration. Metadata.set refuses another value.
    for key in _PATH_KEYS:
        vars(metadata).pop(key, None)
    metadata.set(**_paths_on_disk(row, vars(metadata)))
    image_root = root / row.image_root
    if not image_root.is_dir():
        raise UserError(f"data set {row.name} not found: looked for {image_root}{hint}")
    semantic_root = Path(metadata.sem_seg_root) if metadata.get("sem_seg_root") else None
    if metadata.get("panoptic_json"):
        records = load_panoptic_records(
            root / row.panoptic_json,
            image_root,
            root / row.panoptic_root,
            metadata.stuff_dataset_id_to_contiguous_id,
            row.things,
            semantic_root,
        )
    elif semantic_root:
        records = load_semantic_records(image_root, semantic_root)
    else:
        annotations = [row.panoptic_json, *(folder.path for folder in row.label_folders)]
        looked_for = " or ".join(str(root / path) for path in annotations if path)
        raise UserError(f"data set {row.name} has no labels: looked for {looked_for}{hint}")
    check_a_handful(records, hint)
    return records


def datasets_root() -> Path:
    """The folder of all data sets, from DETECTRON2_DATASETS."""
    return Path(os.environ.get(ROOT_VARIABLE) or "datasets").expanduser()


def check_registered(name: str) -> None:
    """Make sure that a data set of this name exists.

    Raises:
        UserError: naming the nearest one.
    """
    if name in DatasetCatalog:
        return
    ours = [row.name for row in CATALOGUE]
    nearest = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"ITA's are {', '.join(ours)}"
    raise UserError(f"unknown data set {name}; {hint}")


def class_list_for(dataset_name: str, file: str = "") -> ClassList:
    """The class list to use with a data set: its own, or the one in ``file``.

    Raises:
        UserError: an unknown data set, a bad file, or a list of another length than the set's own.
    """
    check_registered(dataset_name)
    own: ClassList = MetadataCatalog.get(dataset_name).class_list
    if not file:
        return own
    replacement = read_class_list(file)
    if len(replacement) != len(own):
        raise UserError(
            f"{file} lists {len(replacement)} classes, but {dataset_name} has {len(own)}; "
            "a replacement names the same classes in the same order"
        )
    return replacement


_PATH_KEYS = (
    "image_root",
    "panoptic_root",
    "panoptic_json",
    "json_file",
    "sem_seg_root",
    "label_ids",
    "ignored_label_values",
)


def _describe(row: DatasetRow) -> dict[str, Any]:
    """What is known of a set without looking at its files."""
    file_ids = tuple(sorted(parse_class_list(row.class_list)))
    class_list = read_class_list(row.class_list)
    names, things = list(class_list.names), tuple(sorted(row.things))
    categories = range(len(names)) if row.contiguous_categories else file_ids
    _check_ids(row, file_ids)
    return {
        "class_list": class_list,
        "class_list_ids": file_ids,
        "stuff_classes": names,
        "stuff_colors": _palette(len(names)),
        "thing_ids": things,
        "thing_classes": [names[i] for i in things],
        "stuff_dataset_id_to_contiguous_id": {c: i for i, c in enumerate(categories)},
        "thing_dataset_id_to_contiguous_id": {categories[i]: i for i in things},
        "ignore_label": row.ignore_label,
        "evaluator_type": row.evaluator_type,
    }


def _check_ids(row: DatasetRow, file_ids: Sequence[int]) -> None:
    count = len(file_ids)
    outside = [i for i in row.things if not 0 <= i < count]
    if outside:
        raise UserError(f"data set {row.name}: thing {outside[0]} is outside the {count} classes")
    if 0 <= row.ignore_label < count:
        raise UserError(
            f"data set {row.name}: ignore label {row.ignore_label} is also a class; give another"
        )
    for folder in row.label_folders:
        label_ids = range(count) if folder.contiguous else file_ids
        both = set(label_ids).intersection(folder.ignored)
        if both:
            raise UserError(
                f"data set {row.name}: label value {min(both)} is both a class and ignored"
            )
        if max(*label_ids, *folder.ignored) >= MAX_LABEL_VALUES:
            raise UserError(f"data set {row.name}: label values must be below {MAX_LABEL_VALUES}")


def _paths_on_disk(row: DatasetRow, described: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that depends on the root; of optional files and folders only what is there."""
    root = datasets_root()
    found: dict[str, Any] = {"image_root": str(root / row.image_root)}
    if row.panoptic_json and (root / row.panoptic_json).is_file():
        found["panoptic_json"] = str(root / row.panoptic_json)
        found["panoptic_root"] = str(root / row.panoptic_root)
    if row.instances_json and (root / row.instances_json).is_file():
        found["json_file"] = str(root / row.instances_json)
    for folder in row.label_folders:
        if (root / folder.path).is_dir():
            count = len(described["class_list"])
            found["sem_seg_root"] = str(root / folder.path)
            found["label_ids"] = (
                tuple(range(count)) if folder.contiguous else described["class_list_ids"]
            )
            found["ignored_label_values"] = folder.ignored
            break
    return found


def _palette(count: int) -> list[tuple[int, int, int]]:
    """Colors (R, G, B) that differ between neighbors: hues by the golden ratio, two tones."""
    colors = []
    for index in range(count):
        hue = index * 0.618034 % 1.0
        rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95 - 0.3 * (index // 2 % 2))
        colors.append(tuple(round(255 * channel) for channel in rgb))
    return colors
