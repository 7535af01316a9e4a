"""The ITA model: the paper's figure as one forward pass, registered with Detectron2.

image -> frozen CLIP image encoder -> multi-scale feature encoder -> progressive decoder
class names -> frozen CLIP text encoder -> similarity with the image -> top-k category queries
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from ita.build import parts_from_config
from ita.classes import ClassList
from ita.errors import UserError
from ita.modeling.clip import FrozenCLIP
from ita.modeling.criterion import SetCriterion
from ita.modeling.decoder import Decoder, Prediction
from ita.modeling.dominant import DominantCategories, valid_fraction
from ita.modeling.image_towers import DENSE
from ita.modeling.pixel_decoder import PixelDecoder, PixelFeatures
from ita.modeling.postprocess import InferenceOptions, geometric_ensemble
from ita.modeling.targets import Target, as_masks
from ita.modeling.vocabulary import (
    BARE,
    PROMPTS,
    Classifier,
    TextEncoder,
    Vocabulary,
    class_logits,
    encode_candidates,
    encode_vocabulary,
)

Record = Mapping[str, Any]


class EncodedImages(NamedTuple):
    """Features of B images that do not depend on the class names.

    Attributes:
        dense: [B, C, H / 32, W / 32], the dense CLIP feature.
        pixel: levels and mask features of the multi-scale feature encoder.
        embedding: [B, D], F_cv, or [B, P, D] of places; None without dominant categories.
        padded_size: (H, W) in pixels, the same for all images.
        sizes: (h, w) in pixels of each image without padding.
        output_sizes: (height, width) of each image's results.
    """

    dense: Tensor
    pixel: PixelFeatures
    embedding: Tensor | None
    padded_size: tuple[int, int]
    sizes: list[tuple[int, int]]
    output_sizes: list[tuple[int, int]]


class Decoded(NamedTuple):
    """Output of the decoder for one vocabulary.

    Attributes:
        predictions: one from the initial queries and one after each layer, in order, or the last.
        classifier: the text classifier of the vocabulary.
        dominant_classes: int64 [B, K'], the class of each dominant category, most likely first,
            -1 for "other"; None without dominant categories.
    """

    predictions: list[Prediction]
    classifier: Classifier
    dominant_classes: Tensor | None


@META_ARCH_REGISTRY.register()
class ITA(nn.Module):
    """Image-Text Aggregation.

    The model contains only weights; vocabulary and inference options are values passed in by
    :class:`ita.segmenter.Segmenter`, so that threads can share one model.

    Args:
        backbone: the frozen CLIP, both towers.
        pixel_decoder: the multi-scale feature encoder.
        decoder: the progressive decoder.
        dominant: dominant category unearthing; None for a decoder with learned queries only.
        criterion: training losses; None for an inference-only model.
        train_class_list: the training class list, which determines the seen classes.
        image_embedding: "shared" or "clip_preprocess", sources of F_cv, or "places".
        candidate_text: text of the candidates, "prompted" or "bare".
        name_table: features by name that replace the candidates' features as queries.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: FrozenCLIP,
        pixel_decoder: PixelDecoder,
        decoder: Decoder,
        dominant: DominantCategories | None,
        criterion: SetCriterion | None,
        train_class_list: ClassList,
        image_embedding: str,
        candidate_text: str,
        name_table: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.dominant = dominant
        self.criterion = criterion
        self.void_embedding = nn.Embedding(1, backbone.embed_dim)
        self.train_class_list = train_class_list
        self.image_embedding, self.candidate_text = image_embedding, candidate_text
        self.name_table = name_table
        self._train_vocabulary: Vocabulary | None = None
        # A checkpoint may contain CLIP's weights, which makes previously encoded text stale.
        self.register_load_state_dict_post_hook(ITA._reset_train_vocabulary)
        self.register_buffer("pixel_mean", torch.tensor(backbone.pixel_mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(backbone.pixel_std).view(3, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments; see :func:`ita.build.parts_from_config`."""
        return parts_from_config(cfg)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pixel_mean.device

    def frozen_state_keys(self) -> set[str]:
        """State-dict keys of the frozen CLIP, which checkpoints leave out."""
        return {name for name in self.state_dict() if name.startswith("backbone.")}

    def forward(self, batched_inputs: Sequence[Record]) -> dict[str, Tensor]:
        """Compute the weighted training losses of a batch, over the training class list.

        Args:
            batched_inputs: for each image a dict of ``image``, uint8 RGB [3, H, W]; ``instances``
                with ``gt_classes`` [M] and ``gt_masks``, a :class:`SegmentMap` or bool [M, H, W];
                optionally ``valid_size``, (h, w) of the image without padding.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice``, and the same for each earlier prediction with
            the suffix ``_0``, ``_1``, ...

        Raises:
            UserError: the records have no annotations.
        """
        if self.criterion is None:
            raise ValueError("a model without a criterion has no training losses")
        _check_annotations(batched_inputs)
        vocabulary = self.prepare_training()
        images = self.encode_images(batched_inputs)
        decoded = self.decode(images, vocabulary, every_layer=self.criterion.deep_supervision)
        targets = self._targets(batched_inputs, images.padded_size)
        return self.criterion(decoded.predictions, targets, decoded.dominant_classes)

    def encode_images(self, batched_inputs: Sequence[Record]) -> EncodedImages:
        """Compute the features that depend only on the images.

        Args:
            batched_inputs: as in :meth:`forward`, without ``instances``; optionally with ``height``
                and ``width`` of the results, by default those of the image.
        """
        images = self.normalize_images(batched_inputs)
        features = self.backbone(images.tensor)
        embedding = None
        if self.dominant is not None:
            embedding = self.embed_images(batched_inputs, features[DENSE])
        pixel = self.pixel_decoder(features)
        return EncodedImages(
            dense=features[DENSE],
            pixel=pixel,
            embedding=embedding,
            padded_size=tuple(images.tensor.shape[-2:]),
            sizes=images.image_sizes,
            output_sizes=[
                (record.get("height", h), record.get("width", w))
                for record, (h, w) in zip(batched_inputs, images.image_sizes, strict=True)
            ],
        )

    def decode(
        self, images: EncodedImages, vocabulary: Vocabulary, *, every_layer: bool = False
    ) -> Decoded:
        """Predict masks and classes of a vocabulary, by the last layer or by every layer."""
        queries = text = dominant_classes = None
        if self.dominant is not None:
            candidates = vocabulary.candidates
            if images.embedding is None or candidates is None:
                raise ValueError("images or vocabulary were encoded by a different model")
            dominant = self.dominant.rank(images.embedding, candidates)
            queries, text = self.dominant(dominant, candidates), candidates.ranking[dominant]
            dominant_classes = candidates.class_index[dominant]
        classifier = self.classifier(vocabulary)
        predictions = self.decoder(
            images.pixel.levels,
            images.pixel.mask_features,
            classifier,
            queries,
            text,
            every_layer=every_layer,
        )
        return Decoded(predictions, classifier, dominant_classes)

    def classify(
        self,
        images: EncodedImages,
        decoded: Decoded,
        vocabulary: Vocabulary,
        options: InferenceOptions,
    ) -> Tensor:
        """Combine the class scores of the decoder and the frozen CLIP (design section 7).

        Returns:
            [B, Q, C + 1] log probabilities in float32, void last.
        """
        prediction = decoded.predictions[-1]
        regions, usable = self.embed_regions(images, prediction)
        return geometric_ensemble(
            prediction.class_logits.float(),
            class_logits(regions, decoded.classifier, self.backbone.logit_scale),
            vocabulary.seen,
            alpha=options.alpha,
            beta=options.beta,
            usable=usable if options.ensemble_on_valid_mask else None,
        )

    def embed_regions(self, images: EncodedImages, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Embed the region of each mask in the space of the frozen CLIP (design section 1).

        Returns:
            [B, Q, D], not normalized; and bool [B, Q], whether a mask has a positive cell at the
            stride of the dense feature, without which its embedding has no meaning.
        """
        dense = images.dense.float()
        masks = F.interpolate(
            prediction.mask_logits.float(),
            size=dense.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        return self.backbone.embed_masks(dense, masks), (masks > 0).flatten(2).any(dim=-1)

    def classifier(self, vocabulary: Vocabulary) -> Classifier:
        """Return the text classifier of a vocabulary; its last row is the learned void vector."""
        void = F.normalize(self.void_embedding.weight, dim=-1)
        weight = torch.cat([vocabulary.features, void])
        return Classifier(weight, vocabulary.class_index, vocabulary.seen.shape[0])

    def make_vocabulary(self, class_list: ClassList, text: TextEncoder) -> Vocabulary:
        """Encode a class list for this model.

        Args:
            class_list: the classes to segment.
            text: encodes names with this model's CLIP.
        """
        candidates = None
        if self.dominant is not None:
            prompts = BARE if self.candidate_text == "bare" else PROMPTS
            candidates = encode_candidates(
                class_list, text, prompts=prompts, name_table=self.name_table
            )
        return encode_vocabulary(class_list, self.train_class_list, text, candidates)

    def prepare_training(self, text: TextEncoder | None = None) -> Vocabulary:
        """Encode the training class list unless it is already encoded.

        The first forward pass does this; a trainer calls it earlier, so that no step waits for it.

        Args:
            text: encodes the names; None encodes them in each process of a job.
        """
        if self._train_vocabulary is None:
            text = text or TextEncoder(self.backbone)
            self._train_vocabulary = self.make_vocabulary(self.train_class_list, text)
        return self._train_vocabulary

    def embed_images(self, batched_inputs: Sequence[Record], dense: Tensor) -> Tensor:
        """Compute F_cv of each image, [B, D], or its places, [B, P, D] (design section 3)."""
        sizes = [record.get("valid_size", record["image"].shape[-2:]) for record in batched_inputs]
        if self.image_embedding == "clip_preprocess":
            images = zip(batched_inputs, sizes, strict=True)
            return self.backbone.embed_images([r["image"][:, :h, :w] for r, (h, w) in images])
        return self.embed_dense(dense, sizes)

    def embed_dense(self, dense: Tensor, sizes: Sequence[tuple[int, int]] | Tensor) -> Tensor:
        """Compute F_cv or the places of images of these sizes in pixels from the dense feature."""
        height, width = dense.shape[-2:]
        stride = self.backbone.size_divisibility
        fraction = valid_fraction(sizes, (height, width), stride, dense.device)
        if self.image_embedding == "places":
            return self.backbone.embed_places(dense, fraction)
        return self.backbone.embed_area(dense, fraction)

    def _reset_train_vocabulary(self, _: Any) -> None:
        self._train_vocabulary = None

    def _apply(self, *args: Any, **kwargs: Any) -> "ITA":
        """Move or cast the weights; the training vocabulary is encoded again where they are."""
        self._train_vocabulary = None
        return super()._apply(*args, **kwargs)

    def normalize_images(self, batched_inputs: Sequence[Record]) -> ImageList:
        """Return the images as CLIP's input, padded to a common size with zeros."""
        images = [record["image"].to(self.device, non_blocking=True) for record in batched_inputs]
        normalized = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(normalized, self.backbone.size_divisibility)

    def _targets(self, batched_inputs: Sequence[Record], frame: tuple[int, int]) -> list[Target]:
        """Ground truth of each image on the model's device; masks stay as compact as they come."""
        targets = []
        for record in batched_inputs:
            instances = record["instances"]
            labels, masks = instances.gt_classes, as_masks(instances.gt_masks)
            labels = labels.to(self.device, non_blocking=True)
            targets.append(Target(labels, masks.to(self.device, non_blocking=True), frame))
        return targets


def _check_annotations(batched_inputs: Sequence[Record]) -> None:
    if any("instances" not in record for record in batched_inputs):
        raise UserError(
            "a record has no instances: calling the model computes training losses; "
            "ita.Segmenter(model, vocabulary, options) segments images"
        )


def build_model(cfg: CfgNode, train_class_list: ClassList | None = None) -> ITA:
    """Build the model of a config on its device, bypassing Detectron2's registry.

    Args:
        cfg: a complete config.
        train_class_list: the training class list; None uses the config's.

    Raises:
        UserError: see :func:`ita.build.parts_from_config`.
    """
    return ITA(**parts_from_config(cfg, train_class_list)).to(cfg.MODEL.DEVICE)
