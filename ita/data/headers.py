"""Check of files by their headers, in a fraction of the time of reading them."""

from PIL import Image

from ita.data.orientation import Orientation, orientation_of
from ita.data.reading import check_sizes, naming_file
from ita.data.records import FILE_KEYS, Record
from ita.data.rgb import open_image
from ita.errors import UserError


def header_problem(record: Record) -> str:
    """Check that image and labels of a record exist, open and agree in size.

    Returns:
        The problem with the path of its file; "" for none.
    """
    path, labels = record["file_name"], [record[key] for key in FILE_KEYS[1:] if key in record]
    try:
        with naming_file(path, "image"), open_image(path) as image:
            size = image.height, image.width
            sizes = [_size_of_labels(label) for label in labels]
            told = record.get("height", size[0]), record.get("width", size[1])
            if {told, *sizes} != {
                size
            }:  # only now, as EXIF data of PNG files may follow the pixels
                orientation = orientation_of(image)
                check_sizes(record, orientation, *(_upright(s, orientation) for s in sizes))
    except UserError as error:
        return str(error)
    return ""


def _size_of_labels(path: str) -> tuple[int, int]:
    """(height, width) of a label file, turned by its own EXIF orientation if any."""
    with naming_file(path, "label map"), Image.open(path) as image:
        # Not that after the pixels, which few files have.
        if "exif" in image.info:
            return orientation_of(image).upright
        return image.height, image.width


def _upright(size: tuple[int, int], image: Orientation) -> tuple[int, int]:
    turn = image.turn_of_labels(size)
    return Orientation(turn, size).upright
