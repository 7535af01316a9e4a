"""Label maps: raw values through a table to the values of the prepared files."""

import io
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ita.data.preparing.outputs import link_file, write_file
from ita.data.preparing.raw import check_size
from ita.errors import UserError

_INVALID = -1


def label_table(
    classes: Mapping[int, int], *, ignored: Iterable[int], ignore_label: int
) -> np.ndarray:
    """A table from raw to prepared label values.

    Args:
        classes: raw value -> class.
        ignored: raw values that become ``ignore_label``. All others are invalid.

    Returns:
        int32 [highest raw value + 1].
    """
    mapping = dict.fromkeys(ignored, ignore_label) | dict(classes)
    table = np.full(max(mapping) + 1, _INVALID, np.int32)
    table[list(mapping)] = list(mapping.values())
    return table


def look_up(values: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Apply a table of :func:`label_table`.

    Args:
        values: integers [H, W].
        path: where they come from, for the error.

    Returns:
        int32 [H, W].

    Raises:
        UserError: a value that the table does not have.
    """
    inside = (values >= 0) & (values < len(table))
    labels = table[values if inside.all() else np.where(inside, values, 0)]
    valid = inside & (labels != _INVALID)
    if not valid.all():
        raise UserError(
            f"{path}: label {values[~valid][0]} is not one of the data set's: is it the right "
            "file? Unpack or download it again"
        )
    return labels


def encode_labels(labels: np.ndarray, suffix: str) -> bytes:
    """A label map as ``.png`` of 8 bits or ``.tif`` of 16 bits.

    The tif is compressed, unlike those that circulate, to a hundredth of their size.
    """
    stream = io.BytesIO()
    if suffix == ".tif":
        image = Image.fromarray(labels.astype(np.uint16))
        image.save(stream, "TIFF", compression="tiff_adobe_deflate")
    else:
        Image.fromarray(labels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@dataclass(frozen=True, eq=False)
class LabelJob:
    """Label maps of one image: read once, written through one table or several.

    Attributes:
        source: the raw label file.
        read: reads it as integers [H, W].
        outputs: prepared label file -> table.
        image: the raw image, if it is there to compare sizes with.
        image_link: where to link it to.
    """

    source: Path
    read: Callable[[Path], np.ndarray]
    outputs: Mapping[Path, np.ndarray]
    image: Path | None = None
    image_link: Path | None = None

    @property
    def targets(self) -> tuple[Path, ...]:
        link = (self.image_link,) if self.image_link else ()
        return (*self.outputs, *link)

    def make(self, unfinished: Collection[Path]) -> None:
        if self.image and self.image_link and self.image_link in unfinished:
            link_file(self.image, self.image_link)
        outputs = [path for path in self.outputs if path in unfinished]
        if not outputs:
            return
        values = self.read(self.source)
        if self.image:
            check_size(self.image, self.source, values.shape)
        for path in outputs:
            labels = look_up(values, self.outputs[path], self.source)
            write_file(path, encode_labels(labels, path.suffix))
