"""Registration of data sets with Detectron2: the catalogue and custom data sets."""

import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ita.classes import ClassList
from ita.data.catalogue import CATALOGUE, DatasetRow, LabelFolder
from ita.data.custom import read_custom
from ita.data.locate import Located, locate
from ita.data.records import MissingFilesError, Record, check_a_handful
from ita.data.remedies import DatasetError, remedy_for_annotations, remedy_for_set
from ita.data.rows import describe, replacement, unknown_dataset
from ita.errors import UserError
from ita.files import find_file

logger = logging.getLogger(__name__)


def register_all(custom_files: Iterable[str | Path] = ()) -> None:
    """Register the catalogue and the data sets of ``DATASETS.CUSTOM``. Idempotent."""
    for row in CATALOGUE:
        register_row(row)
    register_custom(custom_files)


def register_custom(files: Iterable[str | Path]) -> list[DatasetRow]:
    """Register the data sets described by YAML files. Idempotent.

    Returns:
        The rows of the data sets.

    Raises:
        UserError: an invalid file (see :func:`ita.data.custom.read_custom`), or a name that another
            data set has.
    """
    rows = []
    for file in files:
        path = find_file(file).absolute()
        for row in read_custom(path):
            _check_name(row.name, path)
            register_row(row)
            MetadataCatalog.get(row.name).set(described_in=row.described_in)
            rows.append(row)
    return rows


def register_row(row: DatasetRow) -> None:
    """Register a data set with Detectron2, replacing one of the same name.

    Its files are located when it is loaded; until then its metadata has no paths.

    Raises:
        UserError: an invalid class list file, or ids of the row that do not fit it.
    """
    description = describe(row)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if row.name in catalog:
            catalog.remove(row.name)
    DatasetCatalog.register(row.name, functools.partial(load_dataset, row))
    MetadataCatalog.get(row.name).set(**vars(description))


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
    """Register a data set in COCO panoptic format by its paths.

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
    """Register a folder of images and a folder of label PNGs with the same stems.

    Args:
        class_list_file: its ids are the values of the label PNGs.
        ignored_values: PNG values for "not labelled".
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
    """Load the records of a data set, as registered with Detectron2's DatasetCatalog.

    Raises:
        DatasetError: a missing folder or file (names its path and the remedy).
        UserError: an unreadable file.
    """
    located = locate(row)
    metadata = MetadataCatalog.get(row.name)
    # The root and the files may have changed since the last call, and Metadata.set refuses to
    # change a value.
    for key in _FILE_DEPENDENT_KEYS:
        vars(metadata).pop(key, None)
    metadata.set(**_metadata_of_files(located, len(metadata.class_list), metadata.class_list_ids))
    try:
        records = located.records(metadata.stuff_dataset_id_to_contiguous_id)
        check_a_handful(records)
    except MissingFilesError as error:
        raise DatasetError(str(error), row, remedy_for_set(located)) from error
    if row.num_images and len(records) < row.num_images:
        logger.warning(
            "data set %s has %d images, but the complete set has %d",
            row.name,
            len(records),
            row.num_images,
        )
    return records


def check_registered(name: str) -> None:
    """Check that a data set is registered.

    Raises:
        UserError: an unknown data set (the message suggests the nearest name).
    """
    if name not in DatasetCatalog:
        raise unknown_dataset(name, DatasetCatalog.list())
    if MetadataCatalog.get(name).get("class_list") is None:
        raise UserError(
            f"data set {name} is registered by another program, without a class list; describe it "
            "in a file of DATASETS.CUSTOM under another name"
        )


def class_list_for(dataset_name: str, file: str = "") -> ClassList:
    """Class list to use with a registered data set: its own, or the one in ``file``.

    Raises:
        UserError: an unknown data set; also see :func:`ita.data.rows.replacement`.
    """
    check_registered(dataset_name)
    return replacement(MetadataCatalog.get(dataset_name).class_list, file, dataset_name)


def _check_name(name: str, path: Path) -> None:
    """Reject the name of another data set."""
    if name not in DatasetCatalog:
        return
    other = MetadataCatalog.get(name).get("described_in")
    if other != str(path):
        raise UserError(
            f"{path}: data set {name} is already {f'defined in {other}' if other else 'built in'}; "
            "choose another name"
        )


_FILE_DEPENDENT_KEYS = (
    "image_root",
    "panoptic_root",
    "panoptic_json",
    "json_file",
    "sem_seg_root",
    "label_ids",
    "ignored_label_values",
    "label_bits",
    "missing_annotations",
)


def _metadata_of_files(
    located: Located, num_classes: int, file_ids: tuple[int, ...]
) -> dict[str, Any]:
    """Metadata that depends on the files on disk; missing optional files have no entries."""
    found: dict[str, Any] = {
        **located.metadata(),
        "missing_annotations": _missing_annotations(located),
    }
    folder = located.labels
    if folder is not None:
        found["label_ids"] = tuple(range(num_classes)) if folder.contiguous else file_ids
        found["ignored_label_values"] = folder.ignored
        found["label_bits"] = folder.bits
    return found


def _missing_annotations(located: Located) -> Mapping[str, tuple[str, str]]:
    """Metadata key of each optional annotation file missing on disk -> its path, and the remedy."""
    row, missing = located.row, {}
    for key, path, found in (
        ("panoptic_json", row.panoptic_json, located.panoptic),
        ("json_file", row.instances_json, located.instances),
    ):
        if path and not found:
            # Panoptic files are a json and a folder.
            absent = row.panoptic_root if (located.root / path).is_file() else path
            missing[key] = (str(located.root / absent), remedy_for_annotations(row, path))
    return missing
