"""Pictures of an evaluation: the first images of a data set, the best and the worst."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage

from ita.classes import ClassList
from ita.errors import WriteError
from ita.reports.extremes import Extremes, ScoredImage
from ita.reports.pictures import draw_picture, write_picture

logger = logging.getLogger(__name__)

# Choices of images, by which their pictures are listed in results.
FIRST, BEST, WORST = "first", "best", "worst"
FILE_NAME = re.compile(rf"(({BEST}|{WORST})_)?\d\d+_.*\.png")


class PicturesEvaluator(DatasetEvaluator):
    """Draws images of a data set, as an evaluator that composes with the metrics.

    These are the first images and, if :meth:`add_score` is called with each image, those of the
    highest and of the lowest score. The choice does not depend on the number of processes, because
    Detectron2's inference sampler assigns consecutive blocks of the data set to the ranks. With an
    open event storage (evaluation during training), the pictures of the first images are also added
    to TensorBoard.
    """

    def __init__(
        self,
        metadata: Metadata,
        class_list: ClassList,
        seen: tuple[bool, ...],
        folder: str | Path,
        count: int,
    ) -> None:
        """Draw ``count`` pictures of each choice into ``folder``.

        Args:
            metadata: metadata of the data set.
            class_list: class list in use, C classes.
            seen: [C], whether each class is seen in training.
            folder: output folder, created if needed; pictures of earlier evaluations are removed.
            count: number of the first, of the best and of the worst images.
        """
        self._metadata = metadata
        self._class_list = class_list
        self._seen = seen
        self._folder = Path(folder)
        self._count = count
        self.reset()

    def reset(self) -> None:
        """Discard all pictures and scores."""
        self._first: list[tuple[str, np.ndarray]] = []
        self._extremes = Extremes(self._count)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Draw the images until this rank has ``count`` pictures."""
        for record, output in zip(inputs, outputs, strict=True):
            if len(self._first) < self._count:
                self._first.append((record["file_name"], self._draw(record, output)))

    def add_score(self, record: Mapping[str, Any], output: Mapping[str, Any], score: float) -> None:
        """Consider an image for the best and the worst; see :meth:`Extremes.add`."""
        self._extremes.add(record, output, score)

    def evaluate(self) -> dict[str, dict[str, list[dict[str, Any]]]] | None:
        """Write the pictures on rank 0.

        Returns:
            {"pictures": {"first": …, "best": …, "worst": …}}, lists of {image: file name of the
            image, file: file name of the picture in the folder, score: unless it is one of the
            first}; {} if they cannot be written; None on ranks other than 0.
        """
        gathered = comm.gather(self._first)
        best, worst = self._extremes.gather()
        if not comm.is_main_process():
            return None
        first = [picture for rank in gathered for picture in rank][: self._count]
        try:
            pictures = {
                FIRST: [self._write_first(i, *picture) for i, picture in enumerate(first)],
                BEST: [self._write_scored(BEST, i, image) for i, image in enumerate(best)],
                WORST: [self._write_scored(WORST, i, image) for i, image in enumerate(worst)],
            }
        except WriteError as error:  # metrics matter more
            logger.warning("no pictures of %s: %s", self._metadata.name, error)
            return {}
        self._remove_others({entry["file"] for entries in pictures.values() for entry in entries})
        return {"pictures": pictures}

    def _draw(self, record: Mapping[str, Any], output: Mapping[str, Any]) -> np.ndarray:
        return draw_picture(record, output, self._metadata, self._class_list, self._seen)

    def _write_first(self, number: int, image: str, picture: np.ndarray) -> dict[str, Any]:
        name = f"{number:02d}_{Path(image).stem}"
        write_picture(picture, self._folder / f"{name}.png")
        if has_event_storage():
            tag = f"{self._metadata.name}/{name}"
            get_event_storage().put_image(tag, picture.transpose(2, 0, 1))
        return {"image": Path(image).name, "file": f"{name}.png"}

    def _write_scored(self, choice: str, number: int, image: ScoredImage) -> dict[str, Any]:
        path = Path(image.record["file_name"])
        file = f"{choice}_{number:02d}_{path.stem}.png"
        write_picture(self._draw(image.record, image.prediction), self._folder / file)
        return {"image": path.name, "file": file, "score": image.score}

    def _remove_others(self, names: set[str]) -> None:
        """Remove the pictures of earlier evaluations, which may have chosen other images."""
        for path in self._folder.glob("*.png"):
            if path.name not in names and FILE_NAME.fullmatch(path.name):
                path.unlink()
