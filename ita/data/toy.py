"""Writes synthetic scenes as a data set in COCO panoptic's own on-disk format."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ita.data.class_lists import VOCABULARIES, parse_class_list
from ita.data.toy_scenes import SHAPES, Scene, Segment, draw_scene
from ita.errors import UserError

# What a folder was made from; a folder without this file was not made here.
DESCRIPTION = "toy.json"
SPLITS = ("train", "val")
# Width and height relative to the size asked for.
PROPORTIONS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0))


def make_toy_dataset(
    out_dir: str | Path, *, seed: int = 0, train: int = 64, val: int = 24, size: int = 128
) -> Path:
    """Write training and validation scenes, byte for byte the same for the same arguments.

    The folder gets ``toy_{train,val}/*.jpg``, ``panoptic_{train,val}.json``,
    ``panoptic_{train,val}/*.png``, ``instances_{train,val}.json`` and ``classes.txt``. It is
    complete or not there. A folder that already holds this very data set is left as it is.

    Args:
        seed: of all scenes; those of training and validation differ.
        train: number of training scenes.
        val: number of validation scenes.
        size: the longer side of every image, in pixels.

    Returns:
        ``out_dir``.

    Raises:
        UserError: numbers that make no data set, a folder with something else in it, or one that
            cannot be written.
    """
    if train < 1 or val < 1 or size < 32 or seed < 0:
        raise UserError(
            f"train {train}, val {val}, size {size}, seed {seed}: a toy data set needs a scene of "
            "each split, a size of at least 32 and a seed that is not negative"
        )
    out_dir = Path(out_dir)
    description = {"seed": seed, "train": train, "val": val, "size": size}
    if _is_made(out_dir, description):
        return out_dir
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}.") as scratch:
            unfinished = Path(scratch) / out_dir.name
            unfinished.mkdir()
            for number, split in enumerate(SPLITS):
                _write_split(unfinished, split, description[split], (seed, number), size)
            shutil.copyfile(VOCABULARIES / "toy.txt", unfinished / "classes.txt")
            _write_json(unfinished / DESCRIPTION, description)
            unfinished.rename(out_dir)
    except OSError as error:
        raise UserError(f"cannot write the toy data set to {out_dir}: {error}") from error
    return out_dir


def _is_made(out_dir: Path, description: dict[str, int]) -> bool:
    """Whether the folder holds this very data set; UserError if it holds something else."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    try:
        made_from = json.loads((out_dir / DESCRIPTION).read_text())
    except (OSError, ValueError):
        made_from = None
    if made_from != description:
        raise UserError(f"{out_dir} already holds something else; remove it or name another folder")
    return True


@dataclass
class _Annotations:
    """The json files of a split, filled scene by scene."""

    category_ids: dict[str, int]
    images: list[dict[str, Any]] = field(default_factory=list)
    panoptic: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image_id: int, file_name: str, scene: Scene, segment_ids: Sequence[int]) -> None:
        """Add a scene whose segments have these ids."""
        height, width = scene.image.shape[:2]
        self.images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width}
        )
        segments = [
            {"id": segment_id, **self._annotate(segment)}
            for segment_id, segment in zip(segment_ids, scene.segments, strict=True)
        ]
        png = Path(file_name).with_suffix(".png").name
        self.panoptic.append({"image_id": image_id, "file_name": png, "segments_info": segments})
        for segment in scene.segments:
            if segment.name in SHAPES:
                annotation_id = len(self.instances) + 1
                self.instances.append(
                    {"id": annotation_id, "image_id": image_id, **self._annotate(segment)}
                    | {"segmentation": _run_lengths(segment.mask)}
                )

    def write(self, folder: Path, split: str) -> None:
        """Write ``panoptic_SPLIT.json`` and ``instances_SPLIT.json``."""
        categories = [
            {"id": category_id, "name": name, "isthing": int(name in SHAPES)}
            for name, category_id in self.category_ids.items()
        ]
        things = [category for category in categories if category["isthing"]]
        for name, annotations, described in (
            ("panoptic", self.panoptic, categories),
            ("instances", self.instances, things),
        ):
            content = {"images": self.images, "annotations": annotations, "categories": described}
            _write_json(folder / f"{name}_{split}.json", content)

    def _annotate(self, segment: Segment) -> dict[str, Any]:
        rows, columns = (np.flatnonzero(segment.mask.any(axis=axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        return {
            "category_id": self.category_ids[segment.name],
            "area": int(segment.mask.sum()),
            "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
            "iscrowd": int(segment.is_crowd),
        }


def _write_split(folder: Path, split: str, count: int, seed: tuple[int, int], size: int) -> None:
    names = parse_class_list("toy")
    annotations = _Annotations({synonyms[0]: class_id for class_id, synonyms in names.items()})
    images, panoptic = folder / f"toy_{split}", folder / f"panoptic_{split}"
    images.mkdir()
    panoptic.mkdir()
    for image_id in range(1, count + 1):
        # Each scene has a generator of its own, so that more scenes leave the first ones alone.
        rng = np.random.default_rng([*seed, image_id])
        proportions = PROPORTIONS[rng.integers(len(PROPORTIONS))]
        width, height = (round(size * proportion) for proportion in proportions)
        scene = draw_scene(rng, height, width)
        segment_ids = rng.choice(np.arange(1, 1 << 24), len(scene.segments), replace=False).tolist()
        stem = f"{image_id:06d}"
        Image.fromarray(scene.image).save(images / f"{stem}.jpg", quality=95)
        _panoptic_png(scene, segment_ids).save(panoptic / f"{stem}.png")
        annotations.add(image_id, f"{stem}.jpg", scene, segment_ids)
    annotations.write(folder, split)


def _panoptic_png(scene: Scene, segment_ids: Sequence[int]) -> Image.Image:
    """Segment ids as colors: id = R + 256 G + 256² B, black where unlabelled."""
    color = np.zeros(scene.image.shape, np.uint8)
    for segment_id, segment in zip(segment_ids, scene.segments, strict=True):
        color[segment.mask] = segment_id & 255, segment_id >> 8 & 255, segment_id >> 16
    return Image.fromarray(color)


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=None, separators=(",", ":")), encoding="utf-8")
