"""Ground truth of test records, of which each file is read once for all evaluators."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from detectron2.data import Metadata

from ita.classes import ClassList
from ita.data.orientation import ORIENTATION, Orientation
from ita.data.reading import (
    orientation_of_record,
    read_classes,
    read_panoptic_ids,
    read_segments,
)
from ita.errors import UserError

IGNORED = -1


class GroundTruth:
    """Labels of test records. Those of the last record are kept for the next evaluator.

    Args:
        metadata: metadata of the data set.
        class_list: class list in use, C classes.
    """

    def __init__(self, metadata: Metadata, class_list: ClassList) -> None:
        self._metadata = metadata
        self._class_list = class_list
        self._record: Mapping[str, Any] | None = None
        self._classes = np.empty(0)
        self._path = ""
        self._ids = np.empty(0)

    def classes(self, record: Mapping[str, Any]) -> np.ndarray:
        """Load the class of each pixel, int32 [h, w], -1 where ignored; not to be changed.

        Raises:
            UserError: see ``read_classes`` and ``read_segments``; also if a class is outside the
                class list.
        """
        if record is not self._record:
            self._classes = self._load_classes(record)
            self._record = record
        return self._classes

    def segment_ids(self, path: str, record: Mapping[str, Any]) -> np.ndarray:
        """Read a record's panoptic PNG as segment ids, int32 [h, w], 0 void; not to be changed.

        Raises:
            UserError: see ``read_panoptic_ids``.
        """
        path = os.path.normpath(path)
        if path != self._path:
            self._ids = read_panoptic_ids(path, self._orientation(record))
            self._path = path
        return self._ids

    def _load_classes(self, record: Mapping[str, Any]) -> np.ndarray:
        if "sem_seg_file_name" in record:
            values = np.array([*range(len(self._metadata.label_ids)), IGNORED], np.int32)
            path = record["sem_seg_file_name"]
            label = read_classes(path, self._metadata, values, self._orientation(record))
        else:
            classes = [segment["category_id"] for segment in record["segments_info"]]
            values = np.array([*classes, IGNORED], np.int32)
            label = read_segments(record, values, partial(self.segment_ids, record=record))
        highest = int(label.max(initial=IGNORED))
        if highest >= len(self._class_list):
            raise UserError(
                f"{label_name(record)}: class index {highest} is outside class list "
                f"{self._class_list.name} of {len(self._class_list)} classes"
            )
        return label

    def _orientation(self, record: Mapping[str, Any]) -> Orientation | None:
        """Orientation that the mapper of test images has read; None if the record is not its."""
        if ORIENTATION not in record:
            return None
        return orientation_of_record(record, self._metadata)


def label_name(record: Mapping[str, Any]) -> str:
    """Path of the label, to name in error messages about a record."""
    return record.get("sem_seg_file_name") or record.get("pan_seg_file_name", record["file_name"])
