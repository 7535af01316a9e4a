"""A small COCO panoptic data set on disk."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image

from ita.data.registration import register_panoptic

CLASSES = "1: person, human\n3: dog\n7: sky\n9: grass, lawn\n"
# Contiguous ids and category ids of CLASSES.
PERSON, DOG, SKY, GRASS = range(4)
CATEGORY_IDS = (1, 3, 7, 9)


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class MiniPanoptic:
    """A COCO panoptic set on disk that grows image by image."""

    def __init__(self, root: Path):
        self.root = root
        self.images, self.annotations = [], []
        for folder in ("images", "panoptic"):
            (root / folder).mkdir(parents=True)
        (root / "classes.txt").write_text(CLASSES)

    def add(self, image: np.ndarray, ids: np.ndarray, segments: dict[int, tuple[int, int]]):
        """Add an image; ``segments``: id -> (contiguous class, iscrowd). 0 in ``ids`` is void."""
        number = len(self.images)
        stem = f"{number:03d}"
        Image.fromarray(image).save(self.root / "images" / f"{stem}.png")
        color = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(color).save(self.root / "panoptic" / f"{stem}.png")
        height, width = ids.shape
        self.images.append(
            {"id": number, "file_name": f"{stem}.png", "height": height, "width": width}
        )
        infos = [
            {"id": i, "category_id": CATEGORY_IDS[c], "iscrowd": crowd}
            for i, (c, crowd) in segments.items()
        ]
        self.annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": infos}
        )

    def register(self, name: str = "mini") -> list[dict]:
        self.write_json()
        register_panoptic(
            name,
            self.root / "images",
            self.root / "panoptic",
            self.root / "panoptic.json",
            self.root / "classes.txt",
            things=(PERSON, DOG),
        )
        return DatasetCatalog.get(name)

    def write_json(self):
        content = {"images": self.images, "annotations": self.annotations, "categories": []}
        (self.root / "panoptic.json").write_text(json.dumps(content))
