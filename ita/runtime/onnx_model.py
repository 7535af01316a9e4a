"""Segmentation with an exported model by ONNX Runtime: no PyTorch, no Detectron2."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ita.classes import ClassList
from ita.data.reading import as_rgb
from ita.errors import UserError, reason_of
from ita.extras import optional_module
from ita.results import LabelMap
from ita.runtime.clip_tokenizer import ClipTokenizer
from ita.runtime.export_files import (
    MODEL,
    ONNX_SUFFIX,
    TEXT,
    TOKENIZER,
    VOCABULARY,
    Description,
    TextInputs,
    read_description,
    read_vocabulary,
)
from ita.runtime.text_features import NameEncoder
from ita.runtime.tile_labels import Frame, label_map

PROVIDERS = ("CPUExecutionProvider",)


def load_onnx(folder: str | Path, threads: int = 0) -> "OnnxModel":
    """Load a model that ``ita export`` wrote.

    Args:
        folder: the exported model.
        threads: threads per operator; 0 for one per core.

    Raises:
        UserError: the folder is not an exported model, is damaged or in another format, or ONNX
            Runtime is not installed.
    """
    folder = Path(folder)
    description = read_description(folder)
    graph = _session(folder / f"{MODEL}{ONNX_SUFFIX}", threads)
    vocabulary = folder / VOCABULARY
    own = read_vocabulary(vocabulary) if vocabulary.exists() else None
    if own is not None:
        _check_inputs(graph, own, vocabulary)
    encoder = None
    if (folder / f"{TEXT}{ONNX_SUFFIX}").exists():
        # Loaded when a class list needs it.
        encoder = cache(partial(_name_encoder, folder, description, threads))
    return OnnxModel(graph, description, encoder, own)


class OnnxModel:
    """An exported model that segments images into classes given by name.

    Threads can share it.

    Args:
        graph: ONNX Runtime session of the model.
        description: of the exported model.
        encoder: loads what encodes class names; None without a text tower.
        vocabulary: classes to use by default, encoded at export; None without.
    """

    def __init__(
        self,
        graph: Any,
        description: Description,
        encoder: Callable[[], NameEncoder] | None,
        vocabulary: TextInputs | None,
    ) -> None:
        self._graph, self._description, self._encoder = graph, description, encoder
        self._default = self._last = vocabulary

    def segment(
        self,
        image: str | Path | Image.Image | np.ndarray,
        classes: Sequence[str] | ClassList | None = None,
    ) -> LabelMap:
        """Segment an image.

        Args:
            image: path, PIL image or uint8 RGB array [H, W, 3].
            classes: one string of comma-separated synonyms per class, or a class list; None
                selects the vocabulary that was exported with the model.

        Raises:
            UserError: the image is unreadable or not RGB, the classes are invalid, or the model
                was exported without what the classes need.
        """
        pixels = as_rgb(image)
        vocabulary = self._vocabulary(classes)
        padded, valid = self._prepare(pixels)
        size = np.array([valid], np.int64)
        inputs = {"image": padded[None], "size": size, **vocabulary.arrays}
        (mask_logits,), (scores,) = self._graph.run(None, inputs)
        frame = Frame(padded.shape[-2:], valid, pixels.shape[:2], self._description.resize_logits)
        return LabelMap(label_map(mask_logits, scores, frame), vocabulary.class_list)

    def _prepare(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Resize an image [H, W, 3] and pad it.

        Returns:
            uint8 [3, h, w], h and w multiples of the divisor, and the size of the image in it.
        """
        height, width = resized_size(
            image.shape[:2], self._description.min_size, self._description.max_size
        )
        if (height, width) != image.shape[:2]:
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            image = np.asarray(resized)
        padding = [(0, -side % self._description.divisor) for side in (height, width)]
        return np.pad(image, (*padding, (0, 0))).transpose(2, 0, 1), (height, width)

    def _vocabulary(self, classes: Sequence[str] | ClassList | None) -> TextInputs:
        if classes is None:
            if self._default is None:
                raise UserError(
                    "name classes: this model was exported without a vocabulary of its own"
                )
            return self._default
        if not isinstance(classes, ClassList):
            classes = ClassList.from_strings("given classes", classes)
        last = self._last
        if last is None or last.class_list != classes:
            if self._encoder is None:
                raise UserError(
                    "this model was exported without its text tower: it knows the classes of its "
                    f"{VOCABULARY} only"
                )
            # Replaced as a whole, so that threads never see half of it.
            self._last = last = self._encoder().encode(classes)
        return last


def resized_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """Size to which an image is resized (design section 7).

    Args:
        size: (height, width) of the image in pixels.
        min_size: short side of the result; 0 keeps the size.
        max_size: maximum long side of the result; takes precedence.
    """
    if not min_size:
        return size
    sides = [side * (min_size / min(size)) for side in size]
    if max(sides) > max_size:
        sides = [side * (max_size / max(sides)) for side in sides]
    height, width = (max(1, int(side + 0.5)) for side in sides)
    return height, width


def _check_inputs(graph: Any, vocabulary: TextInputs, path: Path) -> None:
    """Check that a graph takes a vocabulary's features.

    Raises:
        UserError: it is of another model.
    """
    widths = {i.name: i.shape[1:] for i in graph.get_inputs() if i.name not in ("image", "size")}
    given = {name: list(array.shape[1:]) for name, array in vocabulary.arrays.items()}
    if widths != given:
        raise UserError(f"{path} is of another model: it has {given}, the graph takes {widths}")


def _name_encoder(folder: Path, description: Description, threads: int) -> NameEncoder:
    session = _session(folder / f"{TEXT}{ONNX_SUFFIX}", threads)

    def tower(tokens: np.ndarray) -> np.ndarray:
        (features,) = session.run(None, {"tokens": tokens})
        return features

    tokenizer = ClipTokenizer.read(folder / TOKENIZER, description.context_length)
    return NameEncoder(description, tokenizer, tower)


def _session(path: Path, threads: int) -> Any:
    """Load a graph.

    Raises:
        UserError: it is missing or damaged, or ONNX Runtime is not installed.
    """
    library: Any = optional_module("onnxruntime", "running an exported model")
    if not path.is_file():
        raise UserError(f"{path} does not exist; ita export --format onnx writes it")
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    try:
        return library.InferenceSession(str(path), options, providers=PROVIDERS)
    except Exception as error:  # its exceptions have no common class
        text = reason_of(error)[:200]
        raise UserError(f"cannot load {path}: {text}") from error
