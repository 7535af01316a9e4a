"""Cityscapes: semantic and panoptic files, as created by cityscapesscripts, and instances.

reads   cityscapes/leftImg8bit/{train,val}/*/*_leftImg8bit.png
        cityscapes/gtFine/{train,val}/*/*_gtFine_{labelIds,instanceIds}.png
writes  cityscapes/gtFine/{train,val}/*/*_gtFine_labelTrainIds.png    0-18, 255 unlabelled
        cityscapes/gtFine/cityscapes_panoptic_{train,val}.json
        cityscapes/gtFine/cityscapes_panoptic_{train,val}/*_gtFine_panoptic.png
        cityscapes/gtFine/cityscapes_instance_{train,val}.json
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ita.data.preparing.jobs import Plan, Step
from ita.data.preparing.labels import LabelJob, label_table, look_up
from ita.data.preparing.outputs import write_file
from ita.data.preparing.panoptic_files import (
    Described,
    describe_instance,
    describe_segments,
    encode_ids,
    panoptic_and_instances,
)
from ita.data.preparing.raw import NotDownloadedError, read_labels, require, require_files
from ita.data.rows import Description, describe, find_row

# Label ids of cityscapesscripts, 0 unlabelled to 33 bicycle, and the train id of those that are
# not evaluated.
LABEL_IDS, VOID = range(34), 255
# Ids in instance maps are label id × 1000 + number; smaller ones are label ids.
FIRST_INSTANCE = 1000


def plan(root: Path, split: str) -> Plan:
    """Plan the preparation of Cityscapes' ``train`` or ``val``, fine annotations.

    Raises:
        UserError: missing raw files.
    """
    fine, images = root / "cityscapes" / "gtFine", root / "cityscapes" / "leftImg8bit" / split
    description = describe(find_row(f"openvocab_cityscapes_fine_panoptic_{split}"))
    stems = _stems(images)
    for city in sorted({stem.parent for stem in stems}):
        names = [stem.name for stem in stems if stem.parent == city]
        require(fine / split / city)
        for kind in ("labelIds", "instanceIds"):
            require_files(fine / split / city, (f"{name}_gtFine_{kind}.png" for name in names))
    table = label_table(
        description.stuff_dataset_id_to_contiguous_id, ignored=LABEL_IDS, ignore_label=VOID
    )
    labels = [
        LabelJob(
            source=_annotation(fine / split, stem, "labelIds"),
            read=read_labels,
            outputs={_annotation(fine / split, stem, "labelTrainIds"): table},
            image=images / f"{stem}_leftImg8bit.png",
        )
        for stem in stems
    ]
    return Plan(
        (
            Step(f"Cityscapes {split}: semantic", labels, own_folders=False),
            _panoptic_step(fine, split, stems, description),
        )
    )


def _stems(images: Path) -> list[Path]:
    """Stem of every image, ``city/city_000000_000000``."""
    require(images)
    suffix = "_leftImg8bit.png"
    stems = [
        Path(city.name, name.removesuffix(suffix))
        for city in sorted(images.iterdir())
        if city.is_dir()
        for name in sorted(os.listdir(city))
        if name.endswith(suffix)
    ]
    if not stems:
        raise NotDownloadedError(f"no images (*{suffix}) in the folders of {images}")
    return stems


def _annotation(folder: Path, stem: Path, kind: str) -> Path:
    return folder / f"{stem}_gtFine_{kind}.png"


def _panoptic_step(fine: Path, split: str, stems: list[Path], description: Description) -> Step:
    evaluated = description.stuff_dataset_id_to_contiguous_id
    things = frozenset(id_ for id_, i in evaluated.items() if i in description.thing_ids)
    name = f"cityscapes_panoptic_{split}"
    jobs = [
        PanopticJob(
            source=_annotation(fine / split, stem, "instanceIds"),
            target=fine / name / f"{stem.name}_gtFine_panoptic.png",
            evaluated=frozenset(evaluated),
            things=things,
        )
        for stem in stems
    ]
    return Step(
        f"Cityscapes {split}: panoptic and instances",
        jobs,
        json_files=panoptic_and_instances(
            fine / f"{name}.json",
            fine / f"cityscapes_instance_{split}.json",
            [job.image_file for job in jobs],
            description,
            sorted(evaluated),
        ),
    )


@dataclass(frozen=True)
class PanopticJob:
    """A panoptic PNG: the ids of the instance map without the classes that are not evaluated.

    Things without an instance number are crowds. Category ids are label ids.
    """

    source: Path
    target: Path
    evaluated: frozenset[int]
    things: frozenset[int]

    @property
    def targets(self) -> tuple[Path, ...]:
        return (self.target,)

    @property
    def stem(self) -> str:
        """Image id, ``city_000000_000000``."""
        return self.source.name.removesuffix("_gtFine_instanceIds.png")

    @property
    def image_file(self) -> str:
        """Image name used by cityscapesscripts, although the file's own has no ``_gtFine``."""
        return f"{self.stem}_gtFine_leftImg8bit.png"

    def make(self, unfinished: Collection[Path]) -> Described:
        ids = read_labels(self.source)
        label_ids = np.where(ids < FIRST_INSTANCE, ids, ids // FIRST_INSTANCE)
        known = label_table({}, ignored=LABEL_IDS, ignore_label=VOID)
        look_up(label_ids, known, self.source)
        ids = np.where(np.isin(label_ids, list(self.evaluated)), ids, 0).astype(np.uint16)
        segments = [self._segment(segment) for segment in describe_segments(ids)]
        things = [segment for segment in segments if segment["category_id"] in self.things]
        if unfinished:
            write_file(self.target, encode_ids(ids))
        height, width = ids.shape
        return Described(
            {"id": self.stem, "file_name": self.image_file, "height": height, "width": width},
            {"image_id": self.stem, "file_name": self.target.name, "segments_info": segments},
            [describe_instance(self.stem, thing, ids) for thing in things],
        )

    def _segment(self, segment: dict[str, Any]) -> dict[str, Any]:
        is_label = segment["id"] < FIRST_INSTANCE
        label_id = segment["id"] if is_label else segment["id"] // FIRST_INSTANCE
        is_crowd = int(is_label and label_id in self.things)
        return {**segment, "category_id": label_id, "iscrowd": is_crowd}
