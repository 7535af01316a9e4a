"""ADE20K-Full, A-847: images and label maps, short side at most 512.

reads   ADE20K_2021_17_01/images/ADE/**, ADE20K_2021_17_01/index_ade20k.pkl if it exists
writes  ADE20K_2021_17_01/images_detectron2/{training,validation}/*.jpg
        ADE20K_2021_17_01/annotations_detectron2/{training,validation}/*.tif
                                                              0-846, 65535 unlabelled, 16 bits
"""

import io
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ita.data.preparing.ade20k_index import read_index
from ita.data.preparing.jobs import Plan, Step
from ita.data.preparing.labels import encode_labels, label_table, look_up
from ita.data.preparing.outputs import write_file
from ita.data.preparing.raw import AGAIN, NotDownloadedError, opened, read_channels, require
from ita.errors import UserError

NAME = "ADE20K_2021_17_01"
FOLDERS = {"train": "training", "val": "validation"}
# ADE20K's index has this many object names; 847 of them are the benchmark's classes.
NUM_INDICES, VOID = 3688, 65535
SHORT_SIDE = 512
_ORDER = Path(__file__).with_name("ade20k_full_indices.txt")


def plan(root: Path, split: str) -> Plan:
    """Plan the preparation of A-847's ``train`` or ``val``.

    Raises:
        UserError: missing raw files, or an unreadable index.
    """
    # Some directory trees have it in a folder "ade".
    places = [root / NAME, root / "ade" / NAME]
    ade = next((place for place in places if place.is_dir()), places[0])
    require(ade / "images")
    listed = ade / "index_ade20k.pkl"
    found = read_index(listed, ade.parent) if listed.is_file() else _walk(ade / "images")
    images = {image.stem: image for image in found if _split(image) == split}
    if not images:
        raise NotDownloadedError(
            f"no images of {split} in {ade / 'images'}: see dataset.md for their download"
        )
    _require_raw(images.values())
    table, folder = class_table(), FOLDERS[split]
    jobs = [
        ResizeJob(
            image=images[stem],
            image_target=ade / "images_detectron2" / folder / f"{stem}.jpg",
            label_target=ade / "annotations_detectron2" / folder / f"{stem}.tif",
            table=table,
        )
        for stem in sorted(images)
    ]
    return Plan((Step(f"A-847 {split}", jobs),))


def class_table() -> np.ndarray:
    """Table from ADE index, from 1, to the benchmark's 847 classes; all others are ignored."""
    lines = _ORDER.read_text(encoding="utf-8").splitlines()
    order = [int(word) for line in lines if not line.startswith("#") for word in line.split()]
    return label_table(
        {index: i for i, index in enumerate(order)},
        ignored=range(NUM_INDICES + 1),
        ignore_label=VOID,
    )


def read_indices(path: Path) -> np.ndarray:
    """Read a ``*_seg.png`` as ADE indices, int32 [H, W]: R // 10 · 256 + G, 0 unlabelled.

    Raises:
        UserError: a file that cannot be decoded, or one that is not a color image.
    """
    return decode(*read_channels(path, 2))


def decode(red: np.ndarray, green: np.ndarray) -> np.ndarray:
    """Decode ADE indices, int32, from the first two channels, uint8."""
    return red.astype(np.int32) // 10 * 256 + green


def _split(image: Path) -> str:
    return "val" if image.name.split("_")[1] == "val" else "train"


def _walk(images: Path) -> Iterator[Path]:
    """Yield the images with label maps below a folder, ``ADE_*.jpg``."""
    for folder, folders, names in os.walk(images):
        # Next to every image is a folder of the same name with one file per instance.
        folders[:] = sorted(name for name in folders if not name.startswith("ADE_"))
        for name in sorted(names):
            if name.startswith("ADE_") and name.endswith(".jpg"):
                yield Path(folder, name)


def _segmentation(image: Path) -> Path:
    return image.with_name(f"{image.stem}_seg.png")


def _require_raw(images: Collection[Path]) -> None:
    needed = [path for image in images for path in (image, _segmentation(image))]
    missing = [path for path in needed if not path.is_file()]
    if missing:
        raise (NotDownloadedError if len(missing) == len(needed) else UserError)(
            f"{missing[0]} not found, one of {len(missing)} missing raw files: unpack the data set "
            "again; without index_ade20k.pkl, only existing images are prepared"
        )


@dataclass(frozen=True, eq=False)
class ResizeJob:
    """Image and label map with their short side reduced to 512, by the benchmark's usual recipe.

    OpenCV interpolates linearly for the image and takes nearest neighbors for the labels; the JPEG
    has Pillow's default quality.
    """

    image: Path
    image_target: Path
    label_target: Path
    table: np.ndarray

    @property
    def targets(self) -> tuple[Path, ...]:
        return (self.image_target, self.label_target)

    def make(self, unfinished: Collection[Path]) -> None:
        label_file = _segmentation(self.image)
        channels = read_channels(label_file, 2)
        height, width = channels[0].shape
        with opened(self.image) as image:
            if image.size != (width, height):
                raise UserError(
                    f"{label_file} is {width} × {height} (width × height), but {self.image} is "
                    f"{image.size[0]} × {image.size[1]}: {AGAIN}"
                )
            pixels = None
            if self.image_target in unfinished:
                pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        size = reduced_size(width, height)
        if pixels is not None:
            write_file(self.image_target, _encode_jpeg(_resize(pixels, size, cv2.INTER_LINEAR)))
        if self.label_target in unfinished:
            # Nearest neighbors are whole pixels, so only the remaining ones need decoding.
            values = decode(*(_resize(c, size, cv2.INTER_NEAREST) for c in channels))
            labels = look_up(values, self.table, label_file)
            write_file(self.label_target, encode_labels(labels, ".tif"))


def reduced_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) with a short side of at most 512 and the same aspect ratio."""
    short = min(width, height)
    if short <= SHORT_SIDE:
        return width, height
    long = round(max(width, height) / short * SHORT_SIDE)
    return (long, SHORT_SIDE) if width >= height else (SHORT_SIDE, long)


def _resize(pixels: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    return (
        pixels
        if pixels.shape[1::-1] == size
        else cv2.resize(pixels, size, interpolation=interpolation)
    )


def _encode_jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()
