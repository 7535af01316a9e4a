"""ITA: the paper's figure as one forward pass, and its registration with Detectron2.

image -> frozen CLIP image encoder -> multi-scale feature encoder -> progressive decoder
class names -> frozen CLIP text encoder -> similarity with the image -> top-k category queries
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from ita.build import parts_from_config
from ita.modeling.clip import DENSE, FrozenCLIP
from ita.modeling.criterion import SetCriterion
from ita.modeling.decoder import Decoder, Prediction
from ita.modeling.dominant import OTHER, Candidates, DominantCategories, valid_fraction
from ita.modeling.inference import InferenceOptions, geometric_ensemble, segment_image
from ita.modeling.matcher import Target
from ita.modeling.pixel_decoder import PixelDecoder
from ita.modeling.vocabulary import (
    BARE,
    PROMPTS,
    Classifier,
    ClassList,
    TextFeatures,
    class_logits,
)


@dataclass(frozen=True)
class VocabularyInUse:
    """A class list with everything that is computed from it once.

    Attributes:
        class_list: C classes.
        thing_ids: classes that are things.
        features: [N, D], one unit vector per synonym.
        class_index: [N], the class of each synonym.
        seen: [C] bool, classes that share a synonym with the training vocabulary.
        candidates: what may be found dominant; None without dominant categories.
    """

    class_list: ClassList
    thing_ids: frozenset[int]
    features: Tensor
    class_index: Tensor
    seen: Tensor
    candidates: Candidates | None


@META_ARCH_REGISTRY.register()
class ITA(nn.Module):
    """Image-Text Aggregation.

    Args:
        backbone: the frozen CLIP, both towers.
        pixel_decoder: the multi-scale feature encoder.
        decoder: the progressive decoder.
        dominant: dominant category unearthing; None: the decoder has learned queries only.
        criterion: losses; None in a model that only infers.
        train_class_list: the training vocabulary, which says what classes are seen.
        train_thing_ids: its things.
        inference: what is computed at inference.
        image_embedding: F_cv, "shared" or "clip_preprocess".
        candidate_text: text of the candidates, "prompted" or "bare".
        name_table: features that replace those of candidates of the same name as queries.
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
        train_thing_ids: Sequence[int] = (),
        inference: InferenceOptions,
        image_embedding: str = "shared",
        candidate_text: str = "prompted",
        name_table: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.dominant = dominant
        self.criterion = criterion
        self.void_embedding = nn.Embedding(1, backbone.embed_dim)
        self.train_class_list, self.train_thing_ids = train_class_list, tuple(train_thing_ids)
        self.inference_options = inference
        self.image_embedding, self.candidate_text = image_embedding, candidate_text
        self.name_table = name_table or {}
        self.text_features = TextFeatures(backbone)
        self._vocabulary: VocabularyInUse | None = None
        # CLIP's weights may come with a checkpoint; text encoded before that is stale.
        self.register_load_state_dict_post_hook(lambda model, _: model.forget_text())
        self.register_buffer("pixel_mean", torch.tensor(backbone.pixel_mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(backbone.pixel_std).view(3, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments that a config stands for."""
        return parts_from_config(cfg)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def frozen_state_keys(self) -> set[str]:
        """State-dict keys of the frozen CLIP, which checkpoints leave out."""
        return {name for name in self.state_dict() if name.startswith("backbone.")}

    def set_vocabulary(self, class_list: ClassList, thing_ids: Sequence[int]) -> None:
        """Use a class list from here on.

        In a distributed job the main process encodes the names and the others receive them: a
        collective call, made by every process at the same point.
        """
        names = class_list.synonyms
        index = [i for i, synonyms in enumerate(class_list.classes) for _ in synonyms]
        self._vocabulary = VocabularyInUse(
            class_list=class_list,
            thing_ids=frozenset(thing_ids),
            features=self.text_features.encode(names, PROMPTS),
            class_index=torch.tensor(index, device=self.device),
            seen=torch.tensor(class_list.seen(self.train_class_list), device=self.device),
            candidates=self._candidates(names, index) if self.dominant is not None else None,
        )

    @contextmanager
    def use_vocabulary(self, class_list: ClassList, thing_ids: Sequence[int]) -> Iterator[None]:
        """Use a class list within a ``with`` block, then the one before it again."""
        before = self._vocabulary
        self.set_vocabulary(class_list, thing_ids)
        try:
            yield
        finally:
            self._vocabulary = before

    @property
    def vocabulary(self) -> VocabularyInUse:
        """The vocabulary in use; the training one until another is set."""
        if self._vocabulary is None:
            self.set_vocabulary(self.train_class_list, self.train_thing_ids)
        return self._vocabulary

    def forget_text(self) -> None:
        """Drop all text features: CLIP's weights have changed."""
        self.text_features.clear()
        self._vocabulary = None

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Train on a batch or segment it.

        Args:
            batched_inputs: for each image a dict of ``image``, uint8 RGB [3, H, W]; optionally
                ``valid_size``, (h, w) of the part that is image and not padding; in training
                ``instances`` with ``gt_classes`` [M] and ``gt_masks`` [M, H, W] bool; at inference
                optionally ``height`` and ``width`` of the output.

        Returns:
            In training a dict of weighted losses. Else for each image a dict, as switched on, of
            ``sem_seg`` [C, h, w] scores, ``panoptic_seg`` (ids [h, w], segments) and
            ``instances``; with dominant categories also ``dominant_classes``, int64 [K'], the class
            of each one, the most likely first, -1 for "other".
        """
        images = self._normalized(batched_inputs)
        features = self.backbone(images.tensor)
        classifier = self._classifier()
        dominant = self._rank_dominant(batched_inputs, features)
        queries = classes = None
        if dominant is not None:
            queries = self.dominant(dominant, self.vocabulary.candidates)
            classes = self.vocabulary.candidates.class_index[dominant]
        pixel = self.pixel_decoder(features)
        predictions = self.decoder(pixel.levels, pixel.mask_features, classifier, queries)
        if self.training:
            return self.criterion(predictions, self._targets(batched_inputs, images), classes)
        with torch.autocast(self.device.type, enabled=False):
            results = self._segment(
                batched_inputs, images, features[DENSE], classifier, predictions[-1]
            )
        if classes is not None:
            for result, dominant_classes in zip(results, classes, strict=True):
                result["dominant_classes"] = dominant_classes
        return results

    def _normalized(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        images = [record["image"].to(self.device) for record in batched_inputs]
        normalized = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(normalized, self.backbone.size_divisibility)

    def _classifier(self) -> Classifier:
        vocabulary = self.vocabulary
        void = F.normalize(self.void_embedding.weight, dim=-1)
        weight = torch.cat([vocabulary.features, void])
        return Classifier(weight, vocabulary.class_index, len(vocabulary.class_list))

    def _candidates(self, names: Sequence[str], class_index: Sequence[int]) -> Candidates:
        names = (*names, OTHER)
        prompts = BARE if self.candidate_text == "bare" else PROMPTS
        ranking = self.text_features.encode(names, prompts)
        queries = ranking.clone()
        for row, name in enumerate(names):
            if name in self.name_table:
                queries[row] = self.name_table[name]
        classes = torch.tensor([*class_index, -1], device=self.device)
        return Candidates(names, ranking, queries, classes)

    def _rank_dominant(
        self, batched_inputs: Sequence[Mapping[str, Any]], features: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The dominant categories of each image, [B, K'] into the vocabulary's candidates."""
        if self.dominant is None:
            return None
        embedding = self.embed_images(batched_inputs, features[DENSE])
        return self.dominant.rank(embedding, self.vocabulary.candidates)

    def embed_images(self, batched_inputs: Sequence[Mapping[str, Any]], dense: Tensor) -> Tensor:
        """F_cv of each image, [B, D], not normalized (design section 3)."""
        sizes = [record.get("valid_size", record["image"].shape[-2:]) for record in batched_inputs]
        if self.image_embedding == "clip_preprocess":
            images = zip(batched_inputs, sizes, strict=True)
            return self.backbone.embed_images([r["image"][:, :h, :w] for r, (h, w) in images])
        fraction = valid_fraction(
            sizes, dense.shape[-2:], self.backbone.size_divisibility, self.device
        )
        return self.backbone.embed_area(dense, fraction)

    def _targets(
        self, batched_inputs: Sequence[Mapping[str, Any]], images: ImageList
    ) -> list[Target]:
        height, width = images.tensor.shape[-2:]
        targets = []
        for record in batched_inputs:
            truth = record["instances"].to(self.device)
            masks = truth.gt_masks.float()
            padding = (0, width - masks.shape[-1], 0, height - masks.shape[-2])
            targets.append(Target(truth.gt_classes, F.pad(masks, padding)))
        return targets

    def _segment(
        self,
        batched_inputs: Sequence[Mapping[str, Any]],
        images: ImageList,
        dense: Tensor,
        classifier: Classifier,
        prediction: Prediction,
    ) -> list[dict[str, Any]]:
        """Results in float32 also under mixed precision, where the best scores would tie."""
        class_scores = self._ensembled(dense, classifier, prediction)
        results = []
        for i, record in enumerate(batched_inputs):
            valid_size = images.image_sizes[i]
            output_size = (record.get("height", valid_size[0]), record.get("width", valid_size[1]))
            masks = F.interpolate(
                prediction.mask_logits[i : i + 1].float(),
                size=images.tensor.shape[-2:],
                mode="bilinear",
                align_corners=False,
            )[0]
            results.append(
                segment_image(
                    class_scores[i],
                    masks,
                    self.vocabulary.thing_ids,
                    self.inference_options,
                    valid_size=valid_size,
                    output_size=output_size,
                )
            )
        return results

    def _ensembled(self, dense: Tensor, classifier: Classifier, prediction: Prediction) -> Tensor:
        """Log probabilities [B, Q, C + 1] from both classifiers."""
        options = self.inference_options
        dense = dense.float()
        masks = F.interpolate(
            prediction.mask_logits.float(),
            size=dense.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        regions = self.backbone.embed_masks(dense, masks)
        usable = (masks > 0).flatten(2).any(dim=-1)
        return geometric_ensemble(
            prediction.class_logits.float(),
            class_logits(regions, classifier, self.backbone.logit_scale),
            self.vocabulary.seen,
            alpha=options.alpha,
            beta=options.beta,
            usable=usable if options.ensemble_on_valid_mask else None,
        )
