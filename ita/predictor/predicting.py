"""Segmentation of images in one call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode

from ita.build import inference_options
from ita.classes import ClassList
from ita.data.catalogue import TEST_SIZE
from ita.data.mapper import InferenceMapper
from ita.errors import UserError
from ita.meta_arch import ITA, EncodedImages, Record
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.text_cache import FeatureCache
from ita.modeling.vocabulary import TextEncoder, Vocabulary
from ita.predictor.assembling import segment_features
from ita.predictor.embedding import Embedding, embed_masks
from ita.predictor.hub import upload_model
from ita.predictor.inputs import Classes, ImageLike, as_class_list, own_pixels, same_shapes
from ita.predictor.model_folder import local_clip_files, save_model
from ita.predictor.segmentation import Segmentation
from ita.progress import Progress, no_progress
from ita.segmenter import Segmenter


class Predictor:
    """A trained model that segments images into classes given by name.

    Each name is encoded once, and repeated calls with the same classes only process the image.
    Threads can share a predictor.

    Attributes:
        model: the network.
        cfg: its config.
        options: inference options of the config, semantic results only.
        mapper: resizes images for inference.
        dtype: precision of matrix products.
    """

    def __init__(
        self,
        model: ITA,
        cfg: CfgNode,
        dtype: torch.dtype = torch.float32,
        progress: Progress = no_progress,
    ) -> None:
        """Wrap a model.

        Args:
            model: model with its final weights; with a lower precision, those of its image encoder
                are stored in it.
            cfg: config of the model.
            dtype: precision of matrix products.
            progress: shows how far the encoding of names has come.
        """
        self.model, self.cfg, self.dtype = model, cfg, dtype
        if dtype != torch.float32:
            model.backbone.store_stages(dtype)
        options = inference_options(cfg)
        self.options = replace(options, semantic=True, panoptic=False, instance=False)
        self.mapper = InferenceMapper.for_test_size(
            TEST_SIZE, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST
        )
        self._text = TextEncoder(model.backbone, cache=FeatureCache.of_user(), progress=progress)
        # The last one; replaced as a whole, so that threads never see half of it.
        self._vocabulary: Vocabulary | None = None

    def segmenter(self, classes: Classes) -> Segmenter:
        """Create a segmenter of the given classes for Detectron2 records.

        Raises:
            UserError: no classes, or a class without a name.
        """
        return Segmenter(self.model, self._encode_classes(as_class_list(classes)), self.options)

    @overload
    def segment(
        self,
        images: ImageLike,
        classes: Classes,
        *,
        panoptic: bool = False,
        instances: bool = False,
        scores: bool = False,
    ) -> Segmentation: ...

    @overload
    def segment(
        self,
        images: list[Any],
        classes: Classes,
        *,
        panoptic: bool = False,
        instances: bool = False,
        scores: bool = False,
    ) -> list[Segmentation]: ...

    def segment(
        self,
        images: ImageLike | list[Any],
        classes: Classes,
        *,
        panoptic: bool = False,
        instances: bool = False,
        scores: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Segment an image, or a list of images as a batch.

        The label map is always computed. The thing classes are those of the class list. If it marks
        none, as a list of strings does, every class counts as a thing.

        Args:
            images: path, PIL image or uint8 RGB array [H, W, 3]; or a list of them. Images of the
                same size share a forward pass, so an image's result does not depend on the others.
            classes: one string of comma-separated synonyms per class, or a class list.
            panoptic: also return ``segments`` that do not overlap: one per object of a thing class,
                one per stuff class.
            instances: also return as ``segments`` the objects of thing classes, which may overlap,
                at most ``TEST.DETECTIONS_PER_IMAGE``, however low their scores.
            scores: also return the scores of all classes at all pixels, float32 [C, H, W].

        Returns:
            The segmentation at the size of the image, or a list of them for a list of images.

        Raises:
            UserError: an image is unreadable or not RGB, the classes are invalid, or both kinds of
                segments are requested.
        """
        options = self._requested(panoptic=panoptic, instances=instances, scores=scores)
        if isinstance(images, ImageLike):
            return self.encode(images)._segment(as_class_list(classes), options)
        if not isinstance(images, list | tuple):
            raise UserError(
                "images are a path, a PIL image, a uint8 RGB array, or a list of these, not "
                f"{type(images).__name__}"
            )
        class_list = as_class_list(classes)
        pixels = [own_pixels(image) for image in images]
        records = [self.mapper.map_image(image) for image in pixels]
        results: dict[int, Segmentation] = {}
        for batch in same_shapes([tuple(record["image"].shape) for record in records]):
            features = self._encode([records[i] for i in batch])
            segmented = self._segment(features, [pixels[i] for i in batch], class_list, options)
            results |= dict(zip(batch, segmented, strict=True))
        return [results[i] for i in range(len(records))]

    def encode(self, image: ImageLike) -> "EncodedImage":
        """Compute the features of an image that do not depend on the classes.

        Args:
            image: path, PIL image or uint8 RGB array [H, W, 3].

        Returns:
            The image, to be segmented into any number of class lists in a fraction of the time.

        Raises:
            UserError: the image is unreadable or not RGB.
        """
        pixels = own_pixels(image)
        return EncodedImage(self, self._encode([self.mapper.map_image(pixels)]), pixels)

    def embed(self, image: ImageLike, classes: Classes | None = None) -> Embedding:
        """Embed the masks of an image in CLIP space.

        Args:
            image: path, PIL image or uint8 RGB array [H, W, 3].
            classes: as in :meth:`segment`. The decoder takes the most likely names as text queries,
                so they influence which masks it finds, but no mask is classified. None selects the
                training class list.

        Raises:
            UserError: the image is unreadable or not RGB, or the classes are invalid.
        """
        return self.encode(image).embed(classes)

    def embed_text(self, names: Sequence[str]) -> np.ndarray:
        """Embed names in CLIP space: the normalized mean over the prompts (design section 2).

        Args:
            names: N names; a comma does not separate synonyms here.

        Returns:
            float32 [N, D], unit vectors.

        Raises:
            UserError: the names are not a list of texts, or one is empty.
        """
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise UserError(f"names are a list of strings, not {names!r}")
        if bad := [name for name in names if not isinstance(name, str) or not name.strip()]:
            raise UserError(f"a name is a string such as 'cat', not {bad[0]!r}")
        if not names:
            return np.zeros((0, self.model.backbone.embed_dim), np.float32)
        return self._text.encode(names).cpu().numpy()

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder, atomically, for :func:`ita.load`.

        The folder has the config, the trained weights as ``.safetensors``, the training class list
        and a card. CLIP's weights are not copied: the config names them.

        Args:
            folder: a new or empty folder, or one of an earlier model, which is replaced.

        Raises:
            UserError: the folder has other content, or cannot be written.
        """
        save_model(self.model, self.cfg, folder)

    def push_to_hub(self, hub_id: str, *, private: bool = False) -> str:
        """Upload the model to Hugging Face as a folder like that of :meth:`save`.

        Args:
            hub_id: ``user/name``; the repository is created if there is none.
            private: whether a new repository can be seen by its owner only.

        Returns:
            The address of the commit.

        Raises:
            UserError: the id is malformed, the config names files of CLIP that others do not have,
                or the upload fails, for example without permission.
        """
        if local := local_clip_files(self.cfg):
            raise UserError(
                f"others do not have {local[0]}, which the config names: load the model with an "
                "open_clip name and tag of CLIP (overrides) before the upload"
            )
        return upload_model(hub_id, self.save, private=private)

    def autocast(self) -> torch.autocast:
        """Return the context in which the model runs."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.model.device.type, self.dtype, enabled=enabled)

    @torch.no_grad()
    def _encode(self, records: Sequence[Record]) -> EncodedImages:
        with self.autocast():
            return self.model.encode_images(records)

    def _encode_classes(self, class_list: ClassList) -> Vocabulary:
        vocabulary = self._vocabulary
        if vocabulary is None or vocabulary.class_list != class_list:
            vocabulary = self.model.make_vocabulary(class_list, self._text)
            self._vocabulary = vocabulary
        return replace(vocabulary, class_list=class_list)  # whose label ids may be others

    def _query_vocabulary(self, classes: Classes | None) -> Vocabulary:
        if classes is None:
            return self.model.prepare_training(self._text)
        return self._encode_classes(as_class_list(classes))

    def _requested(self, *, panoptic: bool, instances: bool, scores: bool) -> InferenceOptions:
        if panoptic and instances:
            raise UserError(
                "segments are panoptic or instances: request one of them, and the other by a "
                "second call (of model.encode(image).segment, which is quick)"
            )
        return replace(self.options, panoptic=panoptic, instance=instances, scores=scores)

    def _segment(
        self,
        features: EncodedImages,
        pixels: Sequence[np.ndarray],
        class_list: ClassList,
        options: InferenceOptions,
    ) -> list[Segmentation]:
        """Segment B images uint8 [H, W, 3], given their features."""
        vocabulary = self._encode_classes(class_list)
        with self.autocast():
            return segment_features(self.model, features, pixels, vocabulary, options)


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image with its features, as returned by :meth:`Predictor.encode`.

    Attributes:
        predictor: the model that computed the features.
        features: the features of this one image.
        image: uint8 RGB [H, W, 3].
    """

    predictor: Predictor
    features: EncodedImages
    image: np.ndarray

    def segment(
        self,
        classes: Classes,
        *,
        panoptic: bool = False,
        instances: bool = False,
        scores: bool = False,
    ) -> Segmentation:
        """Segment the image; only the decoder runs.

        Args:
            classes, panoptic, instances, scores: as in :meth:`Predictor.segment`.

        Raises:
            UserError: the classes are invalid, or both kinds of segments are requested.
        """
        options = self.predictor._requested(panoptic=panoptic, instances=instances, scores=scores)
        return self._segment(as_class_list(classes), options)

    def embed(self, classes: Classes | None = None) -> Embedding:
        """Embed the masks of the image in CLIP space; only the decoder runs.

        Args:
            classes: as in :meth:`Predictor.embed`.

        Raises:
            UserError: the classes are invalid.
        """
        vocabulary = self.predictor._query_vocabulary(classes)
        with self.predictor.autocast():
            return embed_masks(self.predictor.model, self.features, vocabulary)

    def _segment(self, class_list: ClassList, options: InferenceOptions) -> Segmentation:
        return self.predictor._segment(self.features, [self.image], class_list, options)[0]
