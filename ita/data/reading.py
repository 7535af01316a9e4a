"""Reading of images and label maps; errors name the file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ita.data.catalogue import MAX_LABEL_VALUES
from ita.data.orientation import (
    ORIENTATION,
    STORED,
    Orientation,
    Turn,
    load_oriented,
    orientation_of,
    turned,
)
from ita.data.rgb import DECODING_ERRORS, convert_oriented, convert_to_rgb, open_image
from ita.errors import UserError, reason_of

if TYPE_CHECKING:
    from detectron2.data import Metadata


def read_image(path: str) -> np.ndarray:
    """Read an image as uint8 [H, W, 3] RGB, with its EXIF orientation applied.

    Of several images in a file the first is read. See :func:`ita.data.rgb.convert_to_rgb` for
    images other than RGB.

    Raises:
        UserError: a missing file, one that cannot be decoded as an image, or a grayscale image of
            more than 16 bits.
    """
    return read_oriented_image(path)[0]


def read_oriented_image(path: str) -> tuple[np.ndarray, Orientation]:
    """Read an image as :func:`read_image` does, and return also how it is turned."""
    with naming_file(path, "image"), open_image(path) as image:
        return convert_oriented(image)


def orientation_of_record(record: Mapping[str, Any], metadata: "Metadata") -> Orientation:
    """Orientation of a record's image, read from its header if the record does not have it.

    Raises:
        UserError: an image that cannot be opened.
    """
    found = record.get(ORIENTATION)
    if found is None:
        path = record["file_name"]
        with naming_file(path, "image"), open_image(path) as image:
            found = orientation_of(image)
    return replace(found, labels=metadata.get("label_orientation", STORED))


def as_rgb(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """Convert an image to uint8 [H, W, 3] RGB; an array of this form is returned unchanged.

    Raises:
        UserError: an unreadable file, or an object or array of another type or shape.
    """
    if isinstance(image, (str, Path)):
        return read_image(str(image))
    if isinstance(image, Image.Image):
        try:
            return convert_to_rgb(image)
        except DECODING_ERRORS as error:
            raise UserError(f"cannot convert an image of mode {image.mode}: {error}") from error
    if not isinstance(image, np.ndarray):
        raise UserError(
            "an image must be a path, a PIL image or a uint8 RGB array, not a "
            f"{type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"an image array must be uint8 [height, width, 3], not {image.dtype} "
            f"{list(image.shape)}"
        )
    return image


def read_label_values(path: str, orientation: Orientation | None = None) -> np.ndarray:
    """Read the values of a label map (8-bit or 16-bit grayscale, or palette) as integers [H, W].

    Args:
        path: file of the label map.
        orientation: that of the image, with which labels are turned upright unless the file has
            an EXIF orientation of its own; None leaves them as stored.

    Raises:
        UserError: a missing file, one that cannot be decoded, or a color image.
    """
    with naming_file(path, "label map"), Image.open(path) as image:
        own, turn = load_oriented(image)
        values = np.asarray(image)
    if values.ndim != 2:
        raise UserError(f"{path} is a color image, not a label map with one value per pixel")
    return _upright_labels(values, own, turn, orientation)


def read_panoptic_ids(path: str, orientation: Orientation | None = None) -> np.ndarray:
    """Read a COCO panoptic PNG as segment ids, int32 [H, W]: R + 256 G + 256² B; 0 is unlabelled.

    Args:
        path: file of the PNG.
        orientation: see :func:`read_label_values`.

    Raises:
        UserError: a missing file, one that cannot be decoded, or one without colors.
    """
    with naming_file(path, "panoptic PNG"), Image.open(path) as image:
        if image.mode not in ("RGB", "RGBA", "P"):
            raise UserError(f"{path} is not a panoptic PNG: segment ids are RGB colors")
        own, turn = load_oriented(image)
        color = image if image.mode == "RGB" else image.convert("RGB")
        # PIL stores four bytes per pixel: the id, lowest byte first, and one without meaning.
        pixels = np.frombuffer(color.tobytes("raw", "RGBX"), "<i4")
    ids = (pixels & 0xFFFFFF).reshape(color.height, color.width)
    return _upright_labels(ids, own, turn, orientation)


def _upright_labels(
    labels: np.ndarray, own: Orientation, own_turn: Turn | None, image: Orientation | None
) -> np.ndarray:
    """Turn the pixels of a label file upright.

    Args:
        labels: pixels as Pillow has loaded them, [H, W].
        own: orientation in the file itself.
        own_turn: what is left of it to be done.
        image: orientation of the image; None leaves the pixels as they are.
    """
    if image is None:
        return labels
    if own.turn is not None:
        return turned(labels, own_turn)
    return turned(labels, image.turn_of_labels(labels.shape))


def read_segments(
    record: Mapping[str, Any],
    values: np.ndarray,
    read_ids: Callable[[str], np.ndarray] = read_panoptic_ids,
) -> np.ndarray:
    """Read a record's panoptic PNG with a value for each segment.

    Args:
        record: record of the data set, with ``pan_seg_file_name`` and ``segments_info``.
        values: [M + 1], the values of the M segments, then that of unlabelled pixels.
        read_ids: reads the PNG.

    Returns:
        [H, W] of the type of ``values``.

    Raises:
        UserError: see :func:`read_panoptic_ids`; also an id missing in ``segments_info``.
    """
    path = record["pan_seg_file_name"]
    ids = read_ids(path)
    # Segments are regions: a row of pixels has few changes, and only they are looked up.
    run_ids, lengths = runs(ids.ravel())
    known = np.array([0, *(segment["id"] for segment in record["segments_info"])])
    order = np.argsort(known, kind="stable")
    position = np.searchsorted(known, run_ids, sorter=order).clip(max=len(known) - 1)
    index = order[position]
    unknown = known[index] != run_ids
    if unknown.any():
        raise UserError(f"{path}: segment id {run_ids[unknown][0]} is not in the panoptic json")
    return np.repeat(values[index - 1], lengths).reshape(ids.shape)


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split [N] into runs of equal values: the value of each run, and its length."""
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    return values[last], np.diff(last, prepend=-1)


def read_segment_index(
    record: Mapping[str, Any], orientation: Orientation | None = None
) -> np.ndarray:
    """Read a record's panoptic PNG as indices into its ``segments_info``.

    Args:
        record: see :func:`read_segments`.
        orientation: see :func:`read_label_values`.

    Returns:
        int32 [H, W]; -1 where unlabelled.

    Raises:
        UserError: see :func:`read_segments`.
    """
    count = len(record["segments_info"])
    read_ids = partial(read_panoptic_ids, orientation=orientation)
    return read_segments(record, np.array([*range(count), -1], np.int32), read_ids)


def load_semantic_label(record: Mapping[str, Any], metadata: "Metadata") -> np.ndarray:
    """Load the ground-truth class of every pixel of a record.

    The classes are read from the semantic label map if the record has one, else derived from all
    segments of the panoptic PNG, including crowd segments.

    Args:
        record: record of the data set.
        metadata: metadata of the data set (``label_ids``, ``ignored_label_values``, ...).

    Returns:
        int32 [H, W] contiguous class ids, upright as the image; ``metadata.ignore_label`` where
        unlabelled.

    Raises:
        UserError: an unreadable file or one with too few bits (names its path), or a label value
            that is neither a class nor ignored (names path and value).
    """
    orientation = orientation_of_record(record, metadata)
    if "sem_seg_file_name" in record:
        values = np.array([*range(len(metadata.label_ids)), metadata.ignore_label], np.int32)
        return read_classes(record["sem_seg_file_name"], metadata, values, orientation)
    classes = [segment["category_id"] for segment in record["segments_info"]]
    values = np.array([*classes, metadata.ignore_label], np.int32)
    return read_segments(record, values, partial(read_panoptic_ids, orientation=orientation))


def read_classes(
    path: str, metadata: "Metadata", values: np.ndarray, orientation: Orientation | None = None
) -> np.ndarray:
    """Read a semantic label map with a value for each class.

    Args:
        path: file of the label map.
        metadata: metadata of the data set, see :func:`load_semantic_label`.
        values: [C + 1], the values of the C classes, then that of unlabelled pixels.
        orientation: see :func:`read_label_values`.

    Returns:
        [H, W] of the type of ``values``.

    Raises:
        UserError: see :func:`load_semantic_label`.
    """
    labels = read_label_values(path, orientation)
    bits = getattr(metadata, "label_bits", 8)
    if labels.dtype.itemsize * 8 < bits:
        raise UserError(
            f"{path} has {labels.dtype.itemsize * 8} bits per pixel, too few for the labels of "
            f"this data set, which have {bits}; prepare it again"
        )
    label_ids = list(metadata.label_ids)
    # One more entry for all values that no file of labels may have.
    table = np.full(MAX_LABEL_VALUES + 1, -1)
    table[list(metadata.ignored_label_values)] = len(label_ids)
    table[label_ids] = np.arange(len(label_ids))
    # As in read_segments, only the first pixel of each run is looked up.
    run_labels, lengths = runs(labels.ravel())
    in_table = (run_labels >= 0) & (run_labels < MAX_LABEL_VALUES)
    index = table[np.where(in_table, run_labels, MAX_LABEL_VALUES)]
    if (index < 0).any():
        raise UserError(
            f"{path}: label {run_labels[index < 0][0]} is outside the class list "
            f"{metadata.class_list.name} (values {min(label_ids)} to {max(label_ids)} in these "
            "label maps)"
        )
    return np.repeat(values[index], lengths).reshape(labels.shape)


def check_sizes(
    record: Mapping[str, Any], orientation: Orientation, *labels: tuple[int, ...]
) -> None:
    """Check that a record, its image and its labels agree on (height, width).

    Args:
        record: record of the data set; its size may be that of the image as stored or upright.
        orientation: that of the image.
        labels: (height, width) of each of its labels, upright.

    Raises:
        UserError: different sizes (names path and sizes).
    """
    path = record["file_name"]
    upright = orientation.upright
    expected = (record.get("height", upright[0]), record.get("width", upright[1]))
    if expected not in (upright, orientation.stored):
        raise UserError(f"{path} is {upright[::-1]} (width, height), not {expected[::-1]}")
    for shape in labels:
        if shape != upright:
            raise UserError(
                f"{path} is {upright[::-1]} (width, height), but its labels are {shape[::-1]}"
            )


@contextmanager
def naming_file(path: str, kind: str) -> Iterator[None]:
    """Turn any PIL error on a bad file into a one-line UserError that names the file."""
    try:
        yield
    except DECODING_ERRORS as error:
        reason = reason_of(error)
        raise UserError(f"cannot read {kind} {path}: {reason}") from error
