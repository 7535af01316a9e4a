"""Writing scenes of the toy world as a data set in COCO panoptic format."""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ita.classes import parse_class_list
from ita.errors import UserError
from ita.structured_files import parse_json
from ita.toy.names import SEEN_THINGS, STUFF, TEST_UNSEEN, THINGS, VAL_UNSEEN
from ita.toy.scenes import Scene, Segment, draw_scene

CLASS_LISTS = Path(__file__).parent / "class_lists"
# File with the arguments of a data set; a folder without it was not written by this module.
DESCRIPTION = "toy.json"
# Increased whenever the same arguments yield different scenes, so that old folders are detected.
WORLD = 4
# Separates these scenes from those of the captions, which are seeded as well.
_STREAM = 1
# Width and height relative to the requested size.
PROPORTIONS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0))


def _half_and_half(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Repeat items so that a uniform draw is from either sequence with equal probability."""
    length = math.lcm(len(first), len(second))
    return (*first,) * (length // len(first)) + (*second,) * (length // len(second))


@dataclass(frozen=True)
class _Split:
    """Names that a split's objects are drawn from, and the class list of its annotation files."""

    things: tuple[str, ...]
    class_list: str = "toy"


# The order matters: the index of a split is part of the seed of its scenes.
SPLITS = {
    # Its annotation files list only the classes that it shows.
    "train": _Split(SEEN_THINGS, "toy_seen"),
    "val": _Split(_half_and_half(SEEN_THINGS, VAL_UNSEEN)),
    "test_seen": _Split(SEEN_THINGS),
    "test_unseen": _Split(TEST_UNSEEN),
    "test_all": _Split(_half_and_half(SEEN_THINGS, TEST_UNSEEN)),
}


def make_toy_dataset(
    out_dir: str | Path,
    *,
    seed: int = 0,
    train: int = 600,
    val: int = 200,
    test: int = 200,
    size: int = 144,
) -> Path:
    """Write the splits train, val, test_seen, test_unseen and test_all.

    The same arguments yield byte-identical files. For each split, the folder contains
    ``toy_SPLIT/*.jpg``, ``panoptic_SPLIT.json``, ``panoptic_SPLIT/*.png`` and
    ``instances_SPLIT.json``. It is written atomically. A folder that already contains the same
    data set is left unchanged.

    Args:
        out_dir: folder to write.
        seed: random seed; the splits have different scenes.
        train: number of training scenes, which show seen classes only.
        val: number of validation scenes; half of their objects are from VAL_UNSEEN.
        test: number of scenes of each test split: objects of seen classes, of TEST_UNSEEN, and of
            both in equal parts.
        size: longer side of every image, in pixels.

    Returns:
        ``out_dir``.

    Raises:
        UserError: a number is out of range, or the folder has other content or cannot be written.
    """
    if min(train, val, test) < 1 or size < 32 or seed < 0:
        raise UserError(
            f"train {train}, val {val}, test {test}, size {size}, seed {seed}: a toy data set "
            "needs at least one scene per split, a size of at least 32 and a non-negative seed"
        )
    out_dir = Path(out_dir)
    description = {
        "world": WORLD, "seed": seed, "train": train, "val": val, "test": test, "size": size
    }  # fmt: skip
    if _is_written(out_dir, description):
        return out_dir
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}.") as scratch:
            unfinished = Path(scratch) / out_dir.name
            unfinished.mkdir()
            for number, split in enumerate(SPLITS):
                count = description[split.partition("_")[0]]
                _write_split(unfinished, split, count, (seed, number), size)
            _write_json(unfinished / DESCRIPTION, description)
            unfinished.rename(out_dir)
    except OSError as error:
        raise UserError(f"cannot write the toy data set to {out_dir}: {error}") from error
    return out_dir


def _is_written(out_dir: Path, description: dict[str, int]) -> bool:
    """Whether the folder contains this data set. Raises UserError if it has other content."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    try:
        existing = parse_json((out_dir / DESCRIPTION).read_text())
    except (OSError, ValueError):
        existing = None
    if existing == description:
        return True
    details = ""
    if isinstance(existing, dict):
        pairs = ((key, existing.get(key), value) for key, value in description.items())
        changes = ", ".join(f"{key} {old}, not {new}" for key, old, new in pairs if old != new)
        details = f" ({changes})" if changes else ""
    raise UserError(
        f"{out_dir} already has other content{details}; remove it or choose another folder"
    )


@dataclass
class _Annotations:
    """Annotations of a split, filled scene by scene."""

    category_ids: dict[str, int]
    images: list[dict[str, Any]] = field(default_factory=list)
    panoptic: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image_id: int, file_name: str, scene: Scene, segment_ids: Sequence[int]) -> None:
        """Add a scene with the given segment ids."""
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
            if segment.name in THINGS:
                annotation_id = len(self.instances) + 1
                self.instances.append(
                    {"id": annotation_id, "image_id": image_id, **self._annotate(segment)}
                    | {"segmentation": _run_lengths(segment.mask)}
                )

    def write(self, folder: Path, split: str) -> None:
        """Write ``panoptic_SPLIT.json`` and ``instances_SPLIT.json``."""
        categories = [
            {"id": category_id, "name": name, "isthing": int(name in THINGS)}
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
    things = SPLITS[split].things
    class_list = parse_class_list(CLASS_LISTS / f"{SPLITS[split].class_list}.txt")
    annotations = _Annotations({names[0]: class_id for class_id, names in class_list.items()})
    images, panoptic = folder / f"toy_{split}", folder / f"panoptic_{split}"
    images.mkdir()
    panoptic.mkdir()
    for image_id in range(1, count + 1):
        # One generator per scene, so that adding scenes does not change the first ones.
        rng = np.random.default_rng([*seed, image_id, _STREAM])
        proportions = PROPORTIONS[rng.integers(len(PROPORTIONS))]
        width, height = (round(size * proportion) for proportion in proportions)
        scene = draw_scene(rng, height, width, things, STUFF)
        segment_ids = rng.choice((1 << 24) - 1, len(scene.segments), replace=False) + 1
        stem = f"{image_id:06d}"
        Image.fromarray(scene.image).save(images / f"{stem}.jpg", quality=95)
        _panoptic_png(scene, segment_ids.tolist()).save(panoptic / f"{stem}.png")
        annotations.add(image_id, f"{stem}.jpg", scene, segment_ids.tolist())
    annotations.write(folder, split)


def _panoptic_png(scene: Scene, segment_ids: Sequence[int]) -> Image.Image:
    """Encode segment ids as colors: id = R + 256 G + 256² B, black where unlabelled."""
    color = np.zeros(scene.image.shape, np.uint8)
    for segment_id, segment in zip(segment_ids, scene.segments, strict=True):
        color[segment.mask] = segment_id & 255, segment_id >> 8 & 255, segment_id >> 16
    return Image.fromarray(color)


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=None, separators=(",", ":")), encoding="utf-8")
