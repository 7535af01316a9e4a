"""Data set rows and their class lists by name, without Detectron2's catalogs."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ita.classes import (
    ClassList,
    note_repetitions,
    palette,
    read_class_list,
    read_ids_and_classes,
)
from ita.data.catalogue import CATALOGUE, MAX_LABEL_VALUES, DatasetRow
from ita.data.custom import read_custom
from ita.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Description:
    """Properties of a data set, under their names in Detectron2's metadata.

    Attributes:
        class_list: the classes and things.
        class_list_ids: label id of each class in the class list file.
        stuff_classes: names of all classes, things included.
        stuff_colors: (R, G, B) of each class.
        thing_ids: contiguous ids of the things, ascending.
        thing_classes: names of the things.
        stuff_dataset_id_to_contiguous_id: category id of the annotations -> contiguous class id.
        thing_dataset_id_to_contiguous_id: the same, for things only.
        ignore_label: class id of unlabelled pixels.
        label_orientation: see :class:`ita.data.catalogue.DatasetRow`.
        evaluator_type: Detectron2's name for the evaluations that the set supports.
        test_size: short side and maximum long side of test images, in pixels.
    """

    class_list: ClassList
    class_list_ids: tuple[int, ...]
    stuff_classes: list[str]
    stuff_colors: list[tuple[int, int, int]]
    thing_ids: tuple[int, ...]
    thing_classes: list[str]
    stuff_dataset_id_to_contiguous_id: Mapping[int, int]
    thing_dataset_id_to_contiguous_id: Mapping[int, int]
    ignore_label: int
    label_orientation: str
    evaluator_type: str
    test_size: tuple[int, int]


def find_row(name: str, custom_files: Iterable[str] = ()) -> DatasetRow:
    """Find the row of a data set in the catalogue or in the files of ``DATASETS.CUSTOM``.

    Raises:
        UserError: an unknown name (the message suggests the nearest one), or an invalid file.
    """
    rows = {row.name: row for row in CATALOGUE}
    for file in custom_files:
        rows |= {row.name: row for row in read_custom(file)}
    if name not in rows:
        raise unknown_dataset(name, rows)
    return rows[name]


def unknown_dataset(name: str, known: Iterable[str]) -> UserError:
    """Error for an unknown data set name."""
    built_in = ", ".join(row.name for row in CATALOGUE)
    hint = did_you_mean(name, known) or f"the built-in ones are {built_in}"
    return UserError(
        f"unknown data set {name}; {hint} (DATASETS.CUSTOM lists the files of custom data sets)"
    )


def describe(row: DatasetRow) -> Description:
    """Describe a data set from its row and class list; its other files are not needed.

    Raises:
        UserError: an invalid class list file, or ids of the row that do not fit it.
    """
    file_ids, class_list = read_ids_and_classes(row.class_list)
    _check_ids(row, file_ids)
    class_list = dataclasses.replace(class_list, things=frozenset(row.things))
    names, things = list(class_list.names), tuple(sorted(row.things))
    categories = range(len(names)) if row.contiguous_categories else file_ids
    return Description(
        class_list=class_list,
        class_list_ids=file_ids,
        stuff_classes=names,
        stuff_colors=palette(len(names)),
        thing_ids=things,
        thing_classes=[names[i] for i in things],
        stuff_dataset_id_to_contiguous_id={c: i for i, c in enumerate(categories)},
        thing_dataset_id_to_contiguous_id={categories[i]: i for i in things},
        ignore_label=row.ignore_label,
        label_orientation=row.label_orientation,
        evaluator_type=row.evaluator_type,
        test_size=row.test_size,
    )


def replacement(own: ClassList, file: str, dataset_name: str) -> ClassList:
    """Class list to use with a data set: its own, or the one in ``file``.

    Logs names shared by several classes.

    Args:
        own: the data set's class list, with its things.
        file: a class list of the same classes in the same order; "" selects the data set's own.
        dataset_name: for the error message.

    Raises:
        UserError: an invalid file, or one of another length than the data set's own list.
    """
    class_list = own
    if file:
        class_list = read_class_list(file)
        if len(class_list) != len(own):
            raise UserError(
                f"{file} lists {len(class_list)} classes, but {dataset_name} has {len(own)}; "
                "a replacement must name the same classes in the same order"
            )
        class_list = dataclasses.replace(class_list, things=own.things)
    note_repetitions(class_list)
    return class_list


def distinct_class_lists(rows: Iterable[DatasetRow]) -> list[ClassList]:
    """Class lists of data sets, each once: the splits of a data set share one."""
    return [read_class_list(file) for file in dict.fromkeys(row.class_list for row in rows)]


def _check_ids(row: DatasetRow, file_ids: Sequence[int]) -> None:
    count = len(file_ids)
    outside = [i for i in row.things if not 0 <= i < count]
    if outside:
        raise UserError(f"data set {row.name}: thing {outside[0]} is outside the {count} classes")
    if 0 <= row.ignore_label < count:
        raise UserError(
            f"data set {row.name}: ignore label {row.ignore_label} is also a class; choose another"
        )
    for folder in row.label_folders:
        label_ids = range(count) if folder.contiguous else file_ids
        both = set(label_ids).intersection(folder.ignored)
        if both:
            raise UserError(
                f"data set {row.name}: label value {min(both)} is both a class and ignored"
            )
        values = (*label_ids, *folder.ignored)
        if min(values) < 0 or max(values) >= MAX_LABEL_VALUES:
            raise UserError(
                f"data set {row.name}: label values must be from 0 to {MAX_LABEL_VALUES - 1}"
            )
