"""Checks that data sets are complete and readable."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ita.data.catalogue import CATALOGUE, OTHER_NAMES, DatasetRow, families_of
from ita.data.jpeg import JPEG_SUFFIXES, can_see_damage, jpeg_damage
from ita.data.locate import Located, locate
from ita.data.orientation import ORIENTATION, Orientation
from ita.data.reading import (
    check_sizes,
    load_semantic_label,
    orientation_of_record,
    read_oriented_image,
    read_segment_index,
)
from ita.data.records import FILE_KEYS, Record, count_images
from ita.data.registration import register_all, register_custom
from ita.data.remedies import (
    DatasetError,
    Preparation,
    describe_missing,
    inspect_preparation,
    remedy_for_file,
    remedy_for_rest,
    remedy_for_set,
)
from ita.errors import UserError, did_you_mean
from ita.structured_files import parse_json

# Maximum number of images read per data set, unless all are.
SAMPLE = 24

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass
class Report:
    """Result of the check of a data set.

    Attributes:
        row: the data set.
        download: "complete", "part" or "none" of the row's downloaded files exist; "" if it has
            none.
        prepared: "yes", "part" or "no" of the files created by a command exist; "" if the set has
            none.
        annotations: "semantic", "panoptic", "instances" -> whether they exist, for the kinds that
            the set can have. Semantic labels are also derived from panoptic ones.
        num_images: number of images with labels.
        num_read: number of images that were read with their labels.
        classes: contiguous ids of the classes in the images read.
        problems: problems found, each with the file; empty if the set is ready.
        remedies: fix for each problem.
        notes: missing files that are not required.
    """

    row: DatasetRow
    download: str = ""
    prepared: str = ""
    annotations: dict[str, bool] = field(default_factory=dict)
    num_images: int = 0
    num_read: int = 0
    classes: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, problem: str, remedy: str) -> None:
        """Add a problem."""
        self.problems.append(problem)
        self.remedies.append(remedy)

    @property
    def remedy(self) -> str:
        """Fix for the first problem."""
        return self.remedies[0] if self.remedies else ""


def choose_rows(words: Sequence[str], split: str) -> list[DatasetRow]:
    """Select rows by names from a command line; no names select all benchmarks.

    Args:
        words: names of data sets, families such as "a847" and their other names, or YAML files of
            custom data sets.
        split: "train", "val" or "all"; the full name of a data set overrides it.

    Raises:
        UserError: an unknown name, or an invalid YAML file.
    """
    register_all()
    chosen: list[DatasetRow] = []
    for word in words or sorted({row.family for row in CATALOGUE}):
        if Path(word).suffix in (".yaml", ".yml"):
            chosen += register_custom([word])
            continue
        families = families_of(word)
        rows = [row for row in CATALOGUE if row.family in families or row.name == word]
        if not rows:
            known = {name for row in CATALOGUE for name in (row.name, row.family)} | {*OTHER_NAMES}
            expected = ", ".join(dict.fromkeys(row.family for row in CATALOGUE))
            hint = did_you_mean(word, known) or f"expected one of {expected}"
            raise UserError(f"unknown data set {word}; {hint}")
        chosen += [row for row in rows if split in ("all", row.split) or word == row.name]
    return list(dict.fromkeys(chosen))


def check_dataset(
    row: DatasetRow, *, subset: bool, deep: bool, workers: int, progress: Progress
) -> Report:
    """Check a registered data set.

    Args:
        subset: accept fewer images than the complete set has.
        deep: read every image and label instead of a sample, and the instances json.
        workers: number of processes that read.
        progress: wraps an iterable, given its length and a title, to show a progress bar.
    """
    located = locate(row)
    report = _report_of_folders(located)
    try:
        records = DatasetCatalog.get(row.name)
    except UserError as error:
        _describe_folders(report, inspect_preparation(row))
        if isinstance(error, DatasetError):
            report.add(error.problem, error.remedy)
        else:
            report.add(str(error), remedy_for_file(located, str(located.root / row.panoptic_json)))
        return report
    metadata = MetadataCatalog.get(row.name)
    report.notes += describe_missing(metadata.missing_annotations.values())
    report.num_images = len(records)
    surplus = _count_unlabelled(located, records)
    complete = report.num_images == row.num_images and not surplus
    preparation = Preparation() if complete else inspect_preparation(row)
    _describe_folders(report, preparation)
    _check_pairs(report, located, records)
    _check_unlabelled(report, located, surplus, preparation)
    _read_records(report, located, records, metadata, deep, workers, progress)
    if deep and located.instances:
        _check_instances(report, located, records, metadata)
    _check_count(report, located, subset, preparation)
    return report


def _report_of_folders(located: Located) -> Report:
    row = located.row
    exist = [(located.root / path).exists() for path in row.download]
    download = ("complete" if all(exist) else "part" if any(exist) else "none") if exist else ""
    prepared = [folder for folder in row.label_folders if folder.made_by]
    annotations = {"semantic": located.labels is not None or located.panoptic}
    if row.panoptic_json:
        annotations["panoptic"] = located.panoptic
    if row.instances_json:
        annotations["instances"] = located.instances
    state = ("yes" if located.labels in prepared else "no") if prepared else ""
    return Report(row, download, state, annotations)


def _describe_folders(report: Report, preparation: Preparation) -> None:
    """Correct the report of folders by the number of files in them."""
    num_images = max(report.num_images, preparation.num_images)
    if report.download == "complete" and num_images < report.row.num_images:
        report.download = "part"
    if report.prepared == "yes" and preparation.num_unfinished:
        report.prepared = "part"


def _check_count(report: Report, located: Located, subset: bool, preparation: Preparation) -> None:
    count, expected = report.num_images, report.row.num_images
    if not expected or count == expected or (subset and count < expected):
        return
    problem = f"images with labels: {count:,}, not {expected:,}"
    if count > expected:
        report.add(problem, "remove the files that are not part of the data set")
    elif preparation.num_images > count:
        report.add(problem, remedy_for_set(located, preparation))
    else:
        report.add(problem, remedy_for_rest(located, usable=not report.problems))


def _check_pairs(report: Report, located: Located, records: Sequence[Record]) -> None:
    """Report missing files of the records."""
    paths = [record[key] for record in records for key in FILE_KEYS if key in record]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        report.add(
            f"{len(missing):,} of {len(paths):,} files are missing, the first is {missing[0]}",
            remedy_for_file(located, missing[0]),
        )


def _count_unlabelled(located: Located, records: Sequence[Record]) -> int:
    """Number of images without a label map, where labels are a folder of the same stems."""
    if located.panoptic or (located.labels and located.labels.stems):
        return 0
    return count_images(records, located.image_root, located.row.image_suffix) - len(records)


def _check_unlabelled(
    report: Report, located: Located, surplus: int, preparation: Preparation
) -> None:
    if not surplus:
        return
    text = f"{surplus:,} of {report.num_images + surplus:,} images in {located.image_root} "
    text += "have no label map"
    if report.row.family:
        report.add(text, remedy_for_set(located, preparation))
    else:
        report.notes.append(f"{text} and are not used")


def _read_records(
    report: Report,
    located: Located,
    records: Sequence[Record],
    metadata: Metadata,
    deep: bool,
    workers: int,
    progress: Progress,
) -> None:
    if not deep:
        records = records[:: -(-len(records) // SAMPLE)]
        workers = 1
    damaged: list[str] = []
    with _parallel_map(partial(check_record, metadata=metadata), workers) as check_each:
        for finding in progress(check_each(records), len(records), report.row.name):
            report.classes |= finding.classes
            if finding.problem:
                report.add(finding.problem, remedy_for_file(located, finding.path))
            if finding.damage:
                damaged.append(f"{finding.path}: {finding.damage}")
    report.num_read = len(records)
    if damaged:
        report.notes.append(
            f"{len(damaged):,} JPEG files decode in spite of damage, which may show; "
            f"the first is {damaged[0]}"
        )
    jpeg = any(record["file_name"].lower().endswith(JPEG_SUFFIXES) for record in records)
    if deep and jpeg and not can_see_damage():
        report.notes.append(
            "JPEG files were not searched for damage inside; pip install simplejpeg"
        )


@dataclass(frozen=True)
class Finding:
    """Problem of a record ("" if none), the file it is in, and the classes in the record.

    ``damage`` is of a JPEG file that can be used.
    """

    problem: str = ""
    path: str = ""
    damage: str = ""
    classes: frozenset[int] = frozenset()


def check_record(record: Record, metadata: Metadata) -> Finding:
    """Read an image and its labels, and check them."""
    path = record["file_name"]
    try:
        _, orientation = read_oriented_image(path)
        orientation = orientation_of_record({ORIENTATION: orientation}, metadata)
        path = record.get("sem_seg_file_name") or record["pan_seg_file_name"]
        labels = load_semantic_label({**record, ORIENTATION: orientation}, metadata)
        check_sizes(record, orientation, labels.shape)
        if "pan_seg_file_name" in record:
            path = record["pan_seg_file_name"]
            check_sizes(record, orientation, _check_segments(record, orientation))
    except UserError as error:
        return Finding(str(error), path)
    classes = set(np.unique(labels).tolist()) - {metadata.ignore_label}
    path = record["file_name"]
    return Finding(path=path, damage=jpeg_damage(path), classes=frozenset(classes))


def _check_segments(record: Record, orientation: Orientation) -> tuple[int, int]:
    """Check that every segment has pixels; return (height, width) of the panoptic PNG, upright."""
    index = read_segment_index(record, orientation)
    areas = np.bincount(index[index >= 0], minlength=len(record["segments_info"]))
    if not areas.all():
        segment = record["segments_info"][int(areas.argmin())]["id"]
        path = record["pan_seg_file_name"]
        raise UserError(f"{path} lacks segment {segment} of the panoptic json")
    return index.shape


@contextmanager
def _parallel_map(
    function: Callable[[Record], Finding], workers: int
) -> Iterator[Callable[[Sequence[Record]], Iterable[Finding]]]:
    """Yield a function that maps records, in order, in this number of processes."""
    if workers <= 1:
        yield partial(map, function)
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield partial(pool.map, function, chunksize=8)
        finally:
            pool.shutdown(cancel_futures=True)


def _check_instances(
    report: Report, located: Located, records: Sequence[Record], metadata: Metadata
) -> None:
    """Compare images and categories of the instances json with the records."""
    path = Path(metadata.json_file)
    remedy = remedy_for_file(located, str(path))
    try:
        content = parse_json(path.read_bytes())
        image_ids = {image["id"] for image in content["images"]}
        categories = {annotation["category_id"] for annotation in content["annotations"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        report.add(f"{path} is not COCO instances json: {error!r}", remedy)
        return
    missing = [record["image_id"] for record in records if record["image_id"] not in image_ids]
    if missing:
        report.add(f"{path} lacks {len(missing)} images, the first is {missing[0]}", remedy)
    unknown = categories - metadata.thing_dataset_id_to_contiguous_id.keys()
    if unknown:
        report.add(f"{path}: category {min(unknown)} is not a thing of the class list", remedy)
