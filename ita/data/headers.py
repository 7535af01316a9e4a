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
            own = [_orientation_of_labels(label) for label in labels]
            told = record.get("height", size[0]), record.get("width", size[1])
            # Only if sizes differ, as EXIF data of PNG files may follow the pixels.
            if {told, *(orientation.upright for orientation in own)} != {size}:
                orientation = orientation_of(image)
                check_sizes(record, orientation, *(_upright(o, orientation) for o in own))
    except UserError as error:
        return str(error)
    return ""


def _orientation_of_labels(path: str) -> Orientation:
    """Orientation in a label file itself."""
    with naming_file(path, "label map"), Image.open(path) as image:
        # Not that after the pixels, which few files have.
        if "exif" in image.info or hasattr(image, "tag_v2"):
            return orientation_of(image)
        return Orientation(None, (image.height, image.width))


def _upright(labels: Orientation, image: Orientation) -> tuple[int, int]:
    """(height, width) of labels that are turned by their own orientation, else by the image's."""
    if labels.turn is not None:
        return labels.upright
    return Orientation(image.turn_of_labels(labels.stored), labels.stored).upright
