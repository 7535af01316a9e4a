"""Location of a data set's files on disk, and the records loaded from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ita.data.catalogue import DatasetRow, LabelFolder, datasets_root
from ita.data.records import (
    MissingFilesError,
    Record,
    iterate_files,
    load_panoptic_records,
    load_semantic_records,
)


@dataclass(frozen=True)
class Located:
    """The files of a data set that exist on disk.

    Attributes:
        row: the data set.
        root: base folder of the row's relative paths.
        panoptic: whether the panoptic json and PNGs exist.
        instances: whether the instances json exists.
        labels: the first label folder that contains label maps, if any.
    """

    row: DatasetRow
    root: Path
    panoptic: bool
    instances: bool
    labels: LabelFolder | None

    @property
    def image_root(self) -> Path:
        """Folder of the images that belong to the annotations found."""
        others = self.labels.image_root if self.labels and not self.panoptic else ""
        return self.root / (others or self.row.image_root)

    def metadata(self) -> dict[str, Any]:
        """Paths under their names in Detectron2's metadata; missing files have no entries."""
        row, found = self.row, {"image_root": str(self.image_root)}
        if self.panoptic:
            found["panoptic_json"] = str(self.root / row.panoptic_json)
            found["panoptic_root"] = str(self.root / row.panoptic_root)
        if self.instances:
            found["json_file"] = str(self.root / row.instances_json)
        if self.labels is not None:
            found["sem_seg_root"] = str(self.root / self.labels.path)
        return found

    def records(self, class_of_category: Mapping[int, int]) -> list[Record]:
        """Load the records.

        Args:
            class_of_category: category id of the panoptic json -> contiguous class id.

        Raises:
            MissingFilesError: missing images or labels (names the searched paths).
            UserError: unreadable ones.
        """
        row = self.row
        if not self.image_root.is_dir():
            images = {row.image_root, *(f.image_root for f in row.label_folders if f.image_root)}
            places = " or ".join(str(self.root / path) for path in sorted(images))
            raise MissingFilesError(f"data set {row.name} not found: looked for {places}")
        labels = self.labels
        if self.panoptic:
            return load_panoptic_records(
                self.root / row.panoptic_json,
                self.image_root,
                self.root / row.panoptic_root,
                class_of_category,
                row.things,
                image_suffix=row.image_suffix,
                panoptic_suffix=row.panoptic_suffix,
                semantic_root=self.root / labels.path if labels else None,
                semantic_suffix=labels.suffix if labels else "",
            )
        if labels is not None:
            return load_semantic_records(
                self.image_root,
                self.root / labels.path,
                image_suffix=row.image_suffix,
                label_suffix=labels.suffix,
                stems_file=self.root / labels.stems if labels.stems else None,
            )
        annotations = [
            row.panoptic_json,
            *(str(Path(f.path, f"*{f.suffix}")) for f in row.label_folders),
        ]
        looked_for = " or ".join(str(self.root / path) for path in annotations if path)
        raise MissingFilesError(f"data set {row.name} has no labels: looked for {looked_for}")


def locate(row: DatasetRow) -> Located:
    """Locate a data set's files."""
    root = datasets_root()
    return Located(
        row=row,
        root=root,
        panoptic=bool(row.panoptic_json)
        and (root / row.panoptic_json).is_file()
        and (root / row.panoptic_root).is_dir(),
        instances=bool(row.instances_json) and (root / row.instances_json).is_file(),
        labels=next((f for f in row.label_folders if _has_label_maps(root, f)), None),
    )


def _has_label_maps(root: Path, folder: LabelFolder) -> bool:
    if not (root / folder.path).is_dir() or (folder.stems and not (root / folder.stems).is_file()):
        return False
    return next(iterate_files(root / folder.path, folder.suffix), None) is not None
