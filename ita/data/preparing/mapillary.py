"""Mapillary Vistas v1.2: links its folders to the expected paths, and adds missing label maps.

reads   mapillary_vistas/{training,validation}/{panoptic,labels,instances}; below v1.2/ in downloads
        with several versions
writes  mapillary_vistas/{training,validation}/{panoptic,labels,instances}    links to v1.2/
        mapillary_vistas/{training,validation}/labels/*.png    if missing, from the panoptic PNGs:
                                                               0-64, 65 unlabelled
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ita.data.preparing.coco import semantic_jobs
from ita.data.preparing.jobs import Plan, Step
from ita.data.preparing.outputs import link_file
from ita.data.preparing.raw import require
from ita.data.rows import describe, find_row

FOLDERS = {"train": "training", "val": "validation"}


def plan(root: Path, split: str) -> Plan:
    """Plan the preparation of Mapillary Vistas' ``train`` or ``val``.

    Panoptic files need no preparation: categories 1-65 are the classes 0-64. Label maps have the
    values 0-64, and 65 for unlabelled; missing ones are created from the panoptic PNGs.

    Raises:
        UserError: missing or invalid raw files.
    """
    folder = root / "mapillary_vistas" / FOLDERS[split]
    require(folder / "images")
    # Some downloads contain several versions of the annotations.
    version = folder / "v1.2"
    links = [
        LinkJob(version / name, folder / name)
        for name in ("panoptic", "labels", "instances")
        if (version / name).is_dir()
    ]
    steps = [Step(f"Mapillary Vistas {split}: folders", links, own_folders=False)]
    panoptic = (version if (version / "panoptic").is_dir() else folder) / "panoptic"
    require(panoptic)
    if not (version / "labels").is_dir():
        description = describe(find_row(f"openvocab_mapillary_vistas_panoptic_{split}"))
        jobs = semantic_jobs(
            panoptic / "panoptic_2018.json",
            panoptic,
            folder / "labels",
            description.stuff_dataset_id_to_contiguous_id,
            description.ignore_label,
        )
        steps.append(Step(f"Mapillary Vistas {split}: labels", jobs))
    return Plan(tuple(steps))


@dataclass(frozen=True)
class LinkJob:
    """Link to a folder."""

    source: Path
    target: Path

    @property
    def targets(self) -> tuple[Path, ...]:
        return (self.target,)

    def make(self, unfinished: Collection[Path]) -> None:
        link_file(self.source, self.target)
