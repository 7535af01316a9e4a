"""The files that visitors download."""

import json
import uuid
from pathlib import Path
from typing import NamedTuple

from ita.files import write_atomically
from ita.web.answering import Answer


class Downloads(NamedTuple):
    """Paths of the files of an answer.

    Attributes:
        label_map: PNG of class indices.
        overlay: PNG of the image and its classes over a legend.
        description: JSON of classes, dominant categories and segments.
    """

    label_map: str
    overlay: str
    description: str


def write_downloads(answer: Answer, folder: Path) -> Downloads:
    """Write the files of an answer into a new folder whose name cannot be guessed.

    Args:
        answer: the answer.
        folder: where the new folder is created.
    """
    place = folder / uuid.uuid4().hex
    files = Downloads(
        *(
            str(place / f"{answer.stem}_{end}")
            for end in ("labels.png", "overlay.png", "result.json")
        )
    )
    answer.segmentation.to_label_png(files.label_map)
    answer.segmentation.save(files.overlay)
    text = json.dumps(answer.segmentation.to_json(), ensure_ascii=False, indent=1)
    write_atomically(files.description, f"{text}\n".encode())
    return files
