"""Makes Detectron2 know the data sets of the catalogue, and those that people bring."""

import colorsys
import difflib
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ita.data.catalogue import CATALOGUE, DatasetRow, LabelFolder
from ita.data.class_lists import note_repetitions, read_class_list, read_ids_and_classes
from ita.data.locate import Located, locate
from ita.data.reading import MAX_LABEL_VALUES
from ita.data.records import Record, check_a_handful
from ita.errors import UserError
from ita.modeling.vocabulary import ClassList

logger = logging.getLogger(__name__)


def register_all() -> None:
    """Register every row of the catalogue with Detectron2; calling it again changes nothing."""
    for row in CATALOGUE:
        register_row(row)


def register_row(row: DatasetRow) -> None:
    """Register a data set with Detectron2, in place of one of the same name.

    Its files are looked for when it is loaded. Until then its metadata has no paths.

    Raises:
        UserError: a bad class list file, or ids of the row that do not fit it.
    """
    metadata = _describe(row)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if row.name in catalog:
            catalog.remove(row.name)
    DatasetCatalog.register(row.name, functools.partial(load_dataset, row))
    MetadataCatalog.get(row.name).set(**metadata)


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
    located = locate(row)
    metadata = MetadataCatalog.get(row.name)
    # Root and files may have changed since the last time. Metadata.set refuses another value.
    for key in _KEYS_OF_FILES:
        vars(metadata).pop(key, None)
    metadata.set(**_metadata_of_files(located, len(metadata.class_list), metadata.class_list_ids))
    records = located.records(metadata.stuff_dataset_id_to_contiguous_id)
    check_a_handful(records, located.hint())
    if row.num_images and len(records) < row.num_images:
        logger.warning(
            "data set %s has %d images here, the complete set %d",
            row.name,
            len(records),
            row.num_images,
        )
    return records


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
    raise UserError(f"unknown data set {name}; {hint} (DATASETS.CUSTOM brings sets of your own)")


def class_list_for(dataset_name: str, file: str = "") -> ClassList:
    """The class list to use with a data set: its own, or the one in ``file``.

    Names that serve several classes are noted in the log.

    Raises:
        UserError: an unknown data set, a bad file, or a list of another length than the set's own.
    """
    check_registered(dataset_name)
    own: ClassList = MetadataCatalog.get(dataset_name).class_list
    class_list = read_class_list(file) if file else own
    if len(class_list) != len(own):
        raise UserError(
            f"{file} lists {len(class_list)} classes, but {dataset_name} has {len(own)}; "
            "a replacement names the same classes in the same order"
        )
    note_repetitions(class_list)
    return class_list


def _describe(row: DatasetRow) -> dict[str, Any]:
    """What is known of a set without looking at its files."""
    file_ids, class_list = read_ids_and_classes(row.class_list)
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
        "test_size": row.test_size,
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


_KEYS_OF_FILES = (
    "image_root",
    "panoptic_root",
    "panoptic_json",
    "json_file",
    "sem_seg_root",
    "label_ids",
    "ignored_label_values",
    "label_bits",
    "missing_truth",
)


def _metadata_of_files(
    located: Located, num_classes: int, file_ids: tuple[int, ...]
) -> dict[str, Any]:
    """Metadata that depends on what is on disk; of what is optional only what is there."""
    found: dict[str, Any] = {**located.metadata(), "missing_truth": _missing_truth(located)}
    folder = located.labels
    if folder is not None:
        found["label_ids"] = tuple(range(num_classes)) if folder.contiguous else file_ids
        found["ignored_label_values"] = folder.ignored
        found["label_bits"] = folder.bits
    return found


def _missing_truth(located: Located) -> Mapping[str, str]:
    """Metadata key of an annotation that the set could have but that is not there -> what to do."""
    row, missing = located.row, {}
    for key, path, there, made_by in (
        ("panoptic_json", row.panoptic_json, located.panoptic, row.panoptic_made_by),
        ("json_file", row.instances_json, located.instances, row.instances_made_by),
    ):
        if path and not there:
            missing[key] = f"{located.root / path} is not there"
            missing[key] += f"; to make it: {made_by}" if made_by else ""
    return missing


def _palette(count: int) -> list[tuple[int, int, int]]:
    """Colors (R, G, B) that differ between neighbors: hues by the golden ratio, two tones."""
    colors = []
    for index in range(count):
        hue = index * 0.618034 % 1.0
        rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95 - 0.3 * (index // 2 % 2))
        colors.append(tuple(round(255 * channel) for channel in rgb))
    return colors
