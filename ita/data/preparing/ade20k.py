"""ADE20K scene parsing, A-150: semantic, panoptic and instance files.

reads   ADEChallengeData2016/{images,annotations,annotations_instance}/{training,validation}
writes  ADEChallengeData2016/
          annotations_detectron2/{training,validation}/*.png    0-149, 255 unlabelled
          ade20k_panoptic_{train,val}.json, ade20k_panoptic_{train,val}/*.png
          ade20k_instance_{train,val}.json

Without annotations_instance only the semantic files are written.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

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
from ita.data.preparing.raw import (
    check_size,
    paired_stems,
    read_channels,
    read_labels,
    require_files,
)
from ita.data.rows import describe, find_row
from ita.errors import UserError

FOLDERS = {"train": "training", "val": "validation"}
NUM_CLASSES, VOID = 150, 255


def plan(root: Path, split: str) -> Plan:
    """Plan the preparation of A-150's ``train`` or ``val``.

    Raises:
        UserError: missing raw files.
    """
    ade, folder = root / "ADEChallengeData2016", FOLDERS[split]
    images, semantic = ade / "images" / folder, ade / "annotations" / folder
    stems = paired_stems(images, semantic)
    labels = [
        LabelJob(
            source=semantic / f"{stem}.png",
            read=read_labels,
            outputs={ade / "annotations_detectron2" / folder / f"{stem}.png": semantic_table()},
            image=images / f"{stem}.jpg",
        )
        for stem in stems
    ]
    steps = [Step(f"A-150 {split}: semantic", labels)]
    instances = ade / "annotations_instance" / folder
    if not instances.is_dir():
        note = (
            f"{ade}/ade20k_panoptic_{split}.json, ade20k_panoptic_{split}/ and "
            f"ade20k_instance_{split}.json: skipped, they need {instances} (see dataset.md)"
        )
        return Plan(tuple(steps), (note,))
    require_files(instances, (f"{stem}.png" for stem in stems))
    things = describe(find_row(f"openvocab_ade20k_panoptic_{split}")).thing_ids
    jobs = [
        PanopticJob(
            image=images / f"{stem}.jpg",
            semantic=semantic / f"{stem}.png",
            instances=instances / f"{stem}.png",
            target=ade / f"ade20k_panoptic_{split}" / f"{stem}.png",
            things=things,
        )
        for stem in stems
    ]
    return Plan((*steps, _panoptic_step(ade, split, jobs)))


def semantic_table() -> np.ndarray:
    """Table from raw to prepared label values: 0 is unlabelled, 1-150 are the classes."""
    return label_table({i + 1: i for i in range(NUM_CLASSES)}, ignored=[0], ignore_label=VOID)


def _panoptic_step(ade: Path, split: str, jobs: list["PanopticJob"]) -> Step:
    description = describe(find_row(f"openvocab_ade20k_panoptic_{split}"))
    return Step(
        f"A-150 {split}: panoptic and instances",
        jobs,
        json_files=panoptic_and_instances(
            ade / f"ade20k_panoptic_{split}.json",
            ade / f"ade20k_instance_{split}.json",
            [job.image.name for job in jobs],
            description,
            range(NUM_CLASSES),
        ),
    )


@dataclass(frozen=True)
class PanopticJob:
    """A panoptic PNG: stuff from the semantic map, overlaid with things from the instance map.

    The instance map has the thing class in R, 1-100 in A-150's order, and the instance number in
    G, from 1. Pixels in neither map are void. Areas and boxes are those of the pixels in the PNG.
    """

    image: Path
    semantic: Path
    instances: Path
    target: Path
    things: tuple[int, ...]

    @property
    def targets(self) -> tuple[Path, ...]:
        return (self.target,)

    def make(self, unfinished: Collection[Path]) -> Described:
        classes = look_up(read_labels(self.semantic), semantic_table(), self.semantic)
        width, height = check_size(self.image, self.semantic, classes.shape)
        is_thing, thing_class, number = self._read_instances()
        check_size(self.image, self.instances, number.shape)
        is_stuff = ~np.isin(classes, [*self.things, VOID])
        # Instances are numbered per image, and class and number form the id: the class is
        # id % 256 - 1.
        ids = np.where(is_stuff, classes + 1, 0)
        ids = np.where(is_thing, thing_class + 1 + 256 * number, ids).astype(np.uint16)
        segments = [
            {**segment, "category_id": segment["id"] % 256 - 1, "iscrowd": 0}
            for segment in describe_segments(ids)
        ]
        if unfinished:
            write_file(self.target, encode_ids(ids))
        image_id, columnwise = self.image.stem, np.asfortranarray(ids)
        return Described(
            {"id": image_id, "file_name": self.image.name, "height": height, "width": width},
            {"image_id": image_id, "file_name": self.target.name, "segments_info": segments},
            [describe_instance(image_id, s, columnwise) for s in segments if s["id"] >= 256],
        )

    def _read_instances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mask of the things, and their class and instance number in it; each [H, W]."""
        red, green = read_channels(self.instances, 2)
        number = green.astype(np.int32)
        is_thing = number > 0
        table = label_table(dict(enumerate(self.things, start=1)), ignored=[], ignore_label=VOID)
        thing_class = look_up(np.where(is_thing, red, 1), table, self.instances)
        pairs = np.unique(number[is_thing] * 256 + red[is_thing])
        numbers, counts = np.unique(pairs // 256, return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"{self.instances}: instance {numbers[counts > 1][0]} has two classes: is this the "
                "right file? Unpack or download it again"
            )
        return is_thing, thing_class, number
