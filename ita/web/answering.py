"""From a visitor's question to its answer; the image's features are kept for the next question."""

import time
from dataclasses import dataclass
from pathlib import Path

from ita.errors import UserError
from ita.predictor import EncodedImage, Predictor, Segmentation
from ita.web.limits import Limits, read_classes, read_uploaded_image

SEMANTIC, PANOPTIC, INSTANCES = "semantic", "panoptic", "instances"
MODES = (SEMANTIC, PANOPTIC, INSTANCES)
# Scores of all classes at all pixels that are computed for a semantic answer: 256 MB in float32.
MAX_SCORES = 1 << 26


@dataclass(frozen=True)
class Question:
    """What a visitor asks.

    Attributes:
        image: path of the uploaded image; None without one.
        classes: text, one class per line, synonyms separated by commas.
        mode: one of ``MODES``.
        min_score: instances below this score are left out; in 0-1.
    """

    image: str | None
    classes: str
    mode: str = SEMANTIC
    min_score: float = 0.5


@dataclass(frozen=True, eq=False)
class KeptImage:
    """The features of a visitor's last image.

    Attributes:
        path: path of the uploaded image.
        encoded: its features.
    """

    path: str
    encoded: EncodedImage


@dataclass(frozen=True, eq=False)
class Answer:
    """A segmentation, and what it took.

    Attributes:
        segmentation: the result, with the segments to show.
        stem: name of the image without its suffix.
        mode: the question's.
        seconds: time of the computation.
        reused: whether the features were kept, so that only the decoder ran.
    """

    segmentation: Segmentation
    stem: str
    mode: str
    seconds: float
    reused: bool


def answer(
    model: Predictor, limits: Limits, question: Question, kept: KeptImage | None = None
) -> tuple[Answer, KeptImage]:
    """Answer a question.

    Args:
        model: the model.
        limits: limits of image and classes.
        question: the question.
        kept: the features of the visitor's last image, which are used again for the same image.

    Returns:
        The answer, and the features to keep for the next question.

    Raises:
        UserError: no image, or an image, classes or a mode that cannot be used.
    """
    if not question.image:
        raise UserError("no image: choose one, drop it on the page, or take an example")
    if question.mode not in MODES:
        raise UserError(f"mode is {question.mode!r}; it must be {', '.join(MODES)}")
    start = time.monotonic()
    classes = read_classes(question.classes, limits)
    reused = kept is not None and kept.path == question.image
    if kept is None or kept.path != question.image:
        pixels = read_uploaded_image(question.image, limits)
        kept = KeptImage(question.image, model.encode(pixels))
    height, width = kept.encoded.image.shape[:2]
    segmentation = kept.encoded.segment(
        classes,
        panoptic=question.mode == PANOPTIC,
        instances=question.mode == INSTANCES,
        scores=question.mode == SEMANTIC and len(classes) * height * width <= MAX_SCORES,
    )
    if question.mode == INSTANCES:
        segmentation = segmentation.above(question.min_score)
    seconds = time.monotonic() - start
    stem = Path(question.image).stem
    return Answer(segmentation, stem, question.mode, seconds, reused), kept
