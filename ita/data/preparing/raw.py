"""Location and reading of downloaded files; errors name the file and the remedy."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ita.data.catalogue import ROOT_VARIABLE
from ita.data.reading import read_label_values, read_segment_index
from ita.data.rgb import DECODING_ERRORS
from ita.errors import UserError, reason_of
from ita.structured_files import parse_json

AGAIN = "unpack or download it again"


class NotDownloadedError(UserError):
    """All raw data of a split is missing; the other split may still be prepared."""


def require(*paths: Path) -> None:
    """Check that downloaded folders or files exist.

    Raises:
        NotDownloadedError: a missing path (names the first).
    """
    for path in paths:
        if not path.exists():
            raise NotDownloadedError(
                f"{path} not found: see dataset.md for its download; --root or {ROOT_VARIABLE} "
                "must name the folder of all data sets"
            )


def require_files(folder: Path, names: Iterable[str]) -> None:
    """Check that a folder contains these files.

    Raises:
        UserError: missing files (names the first).
    """
    existing = set(os.listdir(folder))
    missing = [name for name in names if name not in existing]
    if missing:
        raise UserError(
            f"{folder / missing[0]} not found, one of {len(missing)} missing raw files: unpack or "
            "download the data set again"
        )


def paired_stems(images: Path, labels: Path) -> list[str]:
    """Sorted stems of the ``*.jpg`` in one folder, which must match the ``*.png`` in another.

    Raises:
        UserError: an image without a label map or vice versa, or no images.
    """
    require(images, labels)
    image_stems, label_stems = _stems(images, ".jpg"), _stems(labels, ".png")
    if not image_stems:
        raise NotDownloadedError(f"no images (*.jpg) in {images}: unpack the data set again")
    require_files(labels, (f"{stem}.png" for stem in image_stems))
    require_files(images, (f"{stem}.jpg" for stem in label_stems))
    return image_stems


def _stems(folder: Path, suffix: str) -> list[str]:
    names = sorted(os.listdir(folder))
    # Archives created on macOS contain "._name" next to "name".
    return [n.removesuffix(suffix) for n in names if n.endswith(suffix) and not n.startswith(".")]


def read_json(path: Path) -> Any:
    """Read a json file.

    Raises:
        UserError: an unreadable file, or invalid json.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid json ({error}): {AGAIN}") from error


def read_labels(path: Path) -> np.ndarray:
    """Read the values of a label map, integers [H, W].

    Raises:
        UserError: see :func:`ita.data.reading.read_label_values`.
    """
    with _adding_remedy():
        return read_label_values(str(path))


def read_segment_classes(
    path: Path, *, segments: Sequence[tuple[int, int]], void: int
) -> np.ndarray:
    """Read a panoptic PNG as the classes of its segments.

    Args:
        segments: (segment id, class) of every segment.
        void: class of pixels without a segment.

    Returns:
        Integers [H, W].

    Raises:
        UserError: see :func:`ita.data.reading.read_segment_index`.
    """
    record = {"pan_seg_file_name": str(path), "segments_info": [{"id": i} for i, _ in segments]}
    with _adding_remedy():
        index = read_segment_index(record)
    return np.array([*(c for _, c in segments), void])[index]


def read_channels(path: Path, count: int) -> list[np.ndarray]:
    """Read the first ``count`` channels of a color PNG, each uint8 [H, W].

    Raises:
        UserError: a file that cannot be decoded, or one that is not a color image.
    """
    with opened(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise UserError(f"{path} is not a color PNG: {AGAIN}")
        # Reading channel by channel is faster than converting the whole image.
        return [np.asarray(image.getchannel(i)) for i in range(count)]


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file without applying its EXIF orientation.

    Raises:
        UserError: the file cannot be opened, or decoded within the ``with`` statement.
    """
    try:
        with Image.open(path) as image:
            yield image
    except DECODING_ERRORS as error:
        reason = reason_of(error)
        raise UserError(f"cannot read {path}: {reason}; {AGAIN}") from error


def check_size(image_file: Path, label_file: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Check that an image has the size of its label map's shape (height, width, ...).

    Returns:
        (width, height).

    Raises:
        UserError: different sizes, or an image that cannot be opened.
    """
    with opened(image_file) as image:
        size = image.size
    if size != (shape[1], shape[0]):
        raise UserError(
            f"{label_file} is {shape[1]} × {shape[0]} (width × height), but {image_file} is "
            f"{size[0]} × {size[1]}: {AGAIN}"
        )
    return size


@contextmanager
def _adding_remedy() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}: {AGAIN}") from error
