"""Label maps: lookup tables from raw to prepared values, and the jobs that apply them."""

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
    """Build a lookup table from raw to prepared label values.

    Args:
        classes: raw value -> class.
        ignored: raw values that become ``ignore_label``; all others are invalid.

    Returns:
        int32 [maximum raw value + 1].
    """
    mapping = dict.fromkeys(ignored, ignore_label) | dict(classes)
    table = np.full(max(mapping) + 1, _INVALID, np.int32)
    table[list(mapping)] = list(mapping.values())
    return table


def look_up(values: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Apply a table of :func:`label_table`.

    Args:
        values: integers [H, W].
        path: source of the values, for the error message.

    Returns:
        int32 [H, W].

    Raises:
        UserError: a value missing in the table.
    """
    inside = (values >= 0) & (values < len(table))
    labels = table[values if inside.all() else np.where(inside, values, 0)]
    valid = inside & (labels != _INVALID)
    if not valid.all():
        raise UserError(
            f"{path}: label {values[~valid][0]} is not one of the data set's labels: is this the "
            "right file? Unpack or download it again"
        )
    return labels


def encode_labels(labels: np.ndarray, suffix: str) -> bytes:
    """Encode a label map as 8-bit ``.png`` or 16-bit ``.tif``.

    The tif is compressed, to a hundredth of the size of the usual uncompressed ones.
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
    """Label maps of one image: read once, written through one or several tables.

    Attributes:
        source: raw label file.
        read: reads it as integers [H, W].
        outputs: prepared label file -> table.
        image: raw image; if given, its size is compared with the label map's.
        image_link: link to the image to create, if any.
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
