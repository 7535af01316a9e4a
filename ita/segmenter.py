"""Segmentation of images with a model, a vocabulary and inference options."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ita.meta_arch import ITA, EncodedImages, Record
from ita.modeling.postprocess import InferenceOptions, segment_image
from ita.modeling.query_masks import QueryMasks
from ita.modeling.vocabulary import Vocabulary
from ita.results import LabelMap


class Segmenter:
    """Segments images into the classes of one vocabulary.

    Model, vocabulary and options are never modified, so segmenters in several threads can share a
    model.

    Args:
        model: the network.
        vocabulary: classes, encoded by :meth:`ita.meta_arch.ITA.make_vocabulary` of this model.
        options: results to compute.
    """

    def __init__(self, model: ITA, vocabulary: Vocabulary, options: InferenceOptions) -> None:
        self.model, self.vocabulary, self.options = model, vocabulary, options

    @torch.no_grad()
    def __call__(self, batched_inputs: Sequence[Record]) -> list[dict[str, Any]]:
        """Segment a batch of Detectron2 records.

        Args:
            batched_inputs: for each image a dict of ``image``, uint8 RGB [3, h, w], and optionally
                ``height`` and ``width`` of the output. Smaller images are padded to the largest.

        Returns:
            For each image a dict with the results that the options enable: ``label_map`` int64
            [H, W], ``sem_seg`` [C, H, W] scores, ``panoptic_seg`` (ids [H, W], segments) and
            ``instances``; with dominant categories also ``dominant_classes``, int64 [K'], their
            classes, most likely first, -1 for "other".
        """
        return self.segment_encoded(self.model.encode_images(batched_inputs))

    def segment(self, batched_inputs: Sequence[Record]) -> list[LabelMap]:
        """Segment a batch of Detectron2 records into label maps on the CPU.

        Raises:
            ValueError: the options do not enable semantic results.
        """
        if not self.options.semantic:
            raise ValueError("label maps need options with semantic=True")
        class_list = self.vocabulary.class_list
        return [LabelMap(r["label_map"].cpu().numpy(), class_list) for r in self(batched_inputs)]

    @torch.no_grad()
    def segment_encoded(self, images: EncodedImages) -> list[dict[str, Any]]:
        """Segment images, given their features by ``model.encode_images``; see :meth:`__call__`."""
        return list(self._results(images))

    def _results(self, images: EncodedImages) -> Iterator[dict[str, Any]]:
        """Yield the results of each image of the batch."""
        decoded = self.model.decode(images, self.vocabulary)
        # In float32 also under mixed precision, where the best scores would tie.
        with torch.autocast(self.model.device.type, enabled=False):
            scores = self.model.classify(images, decoded, self.vocabulary, self.options)
            for i, logits in enumerate(decoded.predictions[-1].mask_logits):
                masks = QueryMasks(
                    logits,
                    images.padded_size,
                    images.sizes[i],
                    images.output_sizes[i],
                    self.options.resize_masks_first,
                )
                things = self.vocabulary.class_list.things
                result = segment_image(scores[i], masks, things, self.options)
                if decoded.dominant_classes is not None:
                    result["dominant_classes"] = decoded.dominant_classes[i]
                yield result
