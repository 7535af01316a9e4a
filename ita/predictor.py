"""Loading a trained model, and segmenting images with it in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from ita.build import inference_options
from ita.classes import ClassList
from ita.config import load_config
from ita.data.catalogue import TEST_SIZE
from ita.data.mapper import InferenceMapper
from ita.data.reading import as_rgb
from ita.engine.loading import load_model
from ita.errors import UserError
from ita.files import PACKAGE, find_file
from ita.meta_arch import ITA
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.vocabulary import TextEncoder
from ita.segmenter import Segmentation, Segmenter

# An image file, a PIL image, or uint8 RGB [H, W, 3].
ImageLike = str | Path | Image.Image | np.ndarray
# Synonyms separated by commas, one string per class; or a class list.
Classes = Sequence[str] | ClassList

TOY_MODEL = PACKAGE / "toy" / "model"
CONFIG_NAME, WEIGHTS_NAME = "config.yaml", "model.safetensors"


def load(
    config: str | Path | None = None,
    weights: str | Path = "",
    device: str = "cpu",
    overrides: Sequence[str] = (),
) -> "Predictor":
    """Load a trained model.

    Args:
        config: a config file; ``configs/...`` is found from any directory. None: the toy model
            that is installed with the package, with its own weights.
        weights: a checkpoint (``.pth`` or ``.safetensors``), also one of FC-CLIP or of the first
            ITA release. Empty: ``MODEL.WEIGHTS`` of the config.
        device: such as "cpu" or "cuda:1".
        overrides: ``KEY VALUE KEY VALUE ...`` on top of the config.

    Returns:
        The model in evaluation mode. Its training class list, which decides which classes are seen,
        is that of ``DATASETS.TRAIN_VOCABULARY`` if set, else the checkpoint's, else the training
        data set's.

    Raises:
        UserError: a config, checkpoint or CLIP file that is missing, damaged or does not fit.
    """
    if config is None:
        config, weights = TOY_MODEL / CONFIG_NAME, weights or TOY_MODEL / WEIGHTS_NAME
    cfg = load_config(find_file(config), [*overrides, "MODEL.DEVICE", _usable(device)])
    path = str(weights or cfg.MODEL.WEIGHTS)
    if not path:
        raise UserError(f"{config} names no weights: give a checkpoint as weights")
    model = load_model(cfg, path)
    mapper = InferenceMapper.for_test_size(
        TEST_SIZE, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST
    )
    return Predictor(model, inference_options(cfg), mapper)


class Predictor:
    """A trained model that segments images into classes given as words.

    Names are encoded once: repeated calls with known names only cost the image. Several threads
    may share a predictor.

    Attributes:
        model: the network.
        options: inference options of the config, semantic results only.
    """

    def __init__(self, model: ITA, options: InferenceOptions, mapper: InferenceMapper) -> None:
        """Wrap a model.

        Args:
            model: with its final weights.
            options: of inference.
            mapper: resizes images for inference.
        """
        self.model = model
        self.options = replace(options, semantic=True, panoptic=False, instance=False)
        self._mapper = mapper
        self._text = TextEncoder(model.backbone)

    def segmenter(self, classes: Classes) -> Segmenter:
        """A segmenter of the given classes, for Detectron2 records.

        Raises:
            UserError: no classes, or a class without a name.
        """
        if not isinstance(classes, ClassList):
            classes = ClassList.from_strings("given classes", classes)
        return Segmenter(self.model, self.model.make_vocabulary(classes, self._text), self.options)

    @overload
    def segment(self, images: ImageLike, classes: Classes) -> Segmentation: ...

    @overload
    def segment(self, images: list[Any], classes: Classes) -> list[Segmentation]: ...

    def segment(
        self, images: ImageLike | list[Any], classes: Classes
    ) -> Segmentation | list[Segmentation]:
        """Segment an image, or a list of images as a batch.

        Args:
            images: path, PIL image or uint8 RGB array [H, W, 3]; or a list of them. Images of the
                same size share a pass, so the result of an image does not depend on the others.
            classes: one string of comma-separated synonyms per class, or a class list.

        Returns:
            The segmentation at the size of the image; a list for a list.

        Raises:
            UserError: an image that cannot be read or is no RGB image, or bad classes.
        """
        if isinstance(images, ImageLike):
            return self.segment([images], classes)[0]
        segmenter = self.segmenter(classes)
        records = [self._record(image) for image in images]
        results: dict[int, Segmentation] = {}
        order = sorted(range(len(records)), key=lambda i: _shape(records[i]))
        for _, group in groupby(order, key=lambda i: _shape(records[i])):
            indices = list(group)
            segmented = segmenter.segment([records[i] for i in indices])
            results |= dict(zip(indices, segmented, strict=True))
        return [results[i] for i in range(len(records))]

    def _record(self, image: ImageLike) -> dict[str, Any]:
        return self._mapper.map_image(as_rgb(image))


def _shape(record: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(record["image"].shape)


def _usable(device: str) -> str:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device} is asked for, but no GPU is visible; use cpu")
    return device
