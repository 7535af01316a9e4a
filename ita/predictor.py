"""Loading of trained models, and segmentation of images in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from ita.engine.precision import native_dtype
from ita.engine.setup import choose_device
from ita.errors import UserError
from ita.files import PACKAGE, find_file
from ita.meta_arch import ITA, EncodedImages
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.storage import reason
from ita.modeling.text_cache import FeatureCache
from ita.modeling.vocabulary import TextEncoder
from ita.results import Segmentation
from ita.segmenter import Segmenter

# An image file, a PIL image, or uint8 RGB [H, W, 3].
ImageLike = str | Path | Image.Image | np.ndarray
# Synonyms separated by commas, one string per class; or a class list.
Classes = Sequence[str] | ClassList

# Precisions of matrix products; "auto" selects the device's.
AUTO = "auto"
PRECISIONS = (AUTO, "float32", "bfloat16", "float16")
# Images per forward pass.
MAX_BATCH = 4
TOY_MODEL = PACKAGE / "toy" / "model"
CONFIG_NAME, WEIGHTS_NAME = "config.yaml", "model.safetensors"


def load(
    config: str | Path | None = None,
    weights: str | Path = "",
    device: str | torch.device | None = None,
    overrides: Sequence[str] = (),
    precision: str = AUTO,
) -> "Predictor":
    """Load a trained model.

    Args:
        config: a config file; ``configs/...`` is found from any directory. None selects the toy
            model that is installed with the package, by default with its own weights.
        weights: a checkpoint (``.pth`` or ``.safetensors``) of this model, FC-CLIP or the first ITA
            release. Empty selects ``MODEL.WEIGHTS`` of the config.
        device: device of the model, such as "cpu" or "cuda:1". None selects ``MODEL.DEVICE`` of the
            config, or the CPU if that is a GPU and none is visible.
        overrides: ``KEY VALUE KEY VALUE ...``, applied to the config.
        precision: of matrix products, one of :data:`PRECISIONS`. "auto" selects float16 on GPUs,
            bfloat16 on CPUs that have instructions for it, else float32.

    Returns:
        The model in evaluation mode. Its training class list, which determines the seen classes, is
        that of ``DATASETS.TRAIN_VOCABULARY`` if set, else the checkpoint's, else the training data
        set's.

    Raises:
        UserError: a config, checkpoint or CLIP file is missing, damaged or does not fit, or the
            device or the precision cannot be used.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; it must be {', '.join(PRECISIONS)}")
    if config is None:
        if weights:
            raise UserError(f"weights {weights} need the config of their model")
        config, weights = TOY_MODEL / CONFIG_NAME, TOY_MODEL / WEIGHTS_NAME
    cfg = load_config(find_file(config), overrides)
    if device is None:
        choose_device(cfg)
    else:
        cfg.MODEL.DEVICE = str(_checked(device))
    path = str(weights or cfg.MODEL.WEIGHTS)
    if not path:
        raise UserError(f"{config} sets no weights: pass a checkpoint as weights")
    model = load_model(cfg, path)
    mapper = InferenceMapper.for_test_size(
        TEST_SIZE, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST
    )
    dtype = native_dtype(model.device) if precision == AUTO else getattr(torch, precision)
    return Predictor(model, inference_options(cfg), mapper, dtype)


class Predictor:
    """A trained model that segments images into classes given by name.

    Each name is encoded once, and repeated calls with the same classes only process the image.
    Threads can share a predictor.

    Attributes:
        model: the network.
        options: inference options of the config, semantic results only.
        mapper: resizes images for inference.
    """

    def __init__(
        self,
        model: ITA,
        options: InferenceOptions,
        mapper: InferenceMapper,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Wrap a model.

        Args:
            model: model with its final weights; with a lower precision, those of its image encoder
                are stored in it.
            options: inference options.
            mapper: resizes images for inference.
            dtype: precision of matrix products.
        """
        self.model, self.dtype = model, dtype
        if dtype != torch.float32:
            model.backbone.store_stages(dtype)
        self.options = replace(options, semantic=True, panoptic=False, instance=False)
        self.mapper = mapper
        self._text = TextEncoder(model.backbone, cache=FeatureCache.of_user())
        # The last one; replaced as a whole, so that threads never see half of it.
        self._segmenter: Segmenter | None = None

    def segmenter(self, classes: Classes) -> Segmenter:
        """Create a segmenter of the given classes for Detectron2 records.

        Raises:
            UserError: no classes, or a class without a name.
        """
        if not isinstance(classes, ClassList):
            classes = ClassList.from_strings("given classes", classes)
        segmenter = self._segmenter
        if segmenter is None or segmenter.vocabulary.class_list != classes:
            vocabulary = self.model.make_vocabulary(classes, self._text)
            self._segmenter = segmenter = Segmenter(self.model, vocabulary, self.options)
        return segmenter

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
                same size share a forward pass, so an image's result does not depend on the others.
            classes: one string of comma-separated synonyms per class, or a class list.

        Returns:
            The segmentation at the size of the image, or a list of them for a list of images.

        Raises:
            UserError: an image is unreadable or not RGB, or the classes are invalid.
        """
        if isinstance(images, ImageLike):
            return self.encode(images).segment(classes)
        if not isinstance(images, list | tuple):
            raise UserError(
                "images are a path, a PIL image, a uint8 RGB array, or a list of these, not "
                f"{type(images).__name__}"
            )
        segmenter = self.segmenter(classes)
        records = [self._record(image) for image in images]
        results: dict[int, Segmentation] = {}
        order = sorted(range(len(records)), key=lambda i: _shape(records[i]))
        for _, group in groupby(order, key=lambda i: _shape(records[i])):
            indices = list(group)
            for start in range(0, len(indices), MAX_BATCH):
                batch = indices[start : start + MAX_BATCH]
                with self.autocast():
                    segmented = segmenter.segment([records[i] for i in batch])
                results |= dict(zip(batch, segmented, strict=True))
        return [results[i] for i in range(len(records))]

    @torch.no_grad()
    def encode(self, image: ImageLike) -> "EncodedImage":
        """Compute the features of an image that do not depend on the classes.

        Args:
            image: path, PIL image or uint8 RGB array [H, W, 3].

        Returns:
            The image, to be segmented into any number of class lists in a fraction of the time.

        Raises:
            UserError: the image is unreadable or not RGB.
        """
        with self.autocast():
            return EncodedImage(self, self.model.encode_images([self._record(image)]))

    def autocast(self) -> torch.autocast:
        """Return the context in which the model runs."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.model.device.type, self.dtype, enabled=enabled)

    def _record(self, image: ImageLike) -> dict[str, Any]:
        return self.mapper.map_image(as_rgb(image))


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image with its features, as returned by :meth:`Predictor.encode`.

    Attributes:
        predictor: the model that computed the features.
        features: the features of this one image.
    """

    predictor: Predictor
    features: EncodedImages

    def segment(self, classes: Classes) -> Segmentation:
        """Segment the image; only the decoder runs.

        Args:
            classes: as in :meth:`Predictor.segment`.

        Raises:
            UserError: the classes are invalid.
        """
        segmenter = self.predictor.segmenter(classes)
        with self.predictor.autocast():
            return segmenter.segment_encoded(self.features)[0]


def _shape(record: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(record["image"].shape)


def _checked(device: str | torch.device) -> torch.device:
    """Check that a device exists."""
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device} cannot be used; choose cpu ({reason(error)})") from error
    return device
