"""The model as a function of tensors alone, as exporters trace it."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ita.meta_arch import ITA, EncodedImages
from ita.modeling.clip import FrozenCLIP
from ita.modeling.dominant import valid_fraction
from ita.modeling.image_towers import DENSE
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.vocabulary import Vocabulary


class _ImageClip(nn.Module):
    """A CLIP without what only texts need, sharing its weights."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.visual, self.logit_scale = clip.visual, clip.logit_scale


def image_model(model: ITA) -> ITA:
    """Return a model without text tower, which shares the weights."""
    images = ITA(
        backbone=FrozenCLIP(_ImageClip(model.backbone.clip), model.backbone.tokenizer),
        pixel_decoder=model.pixel_decoder,
        decoder=model.decoder,
        dominant=model.dominant,
        criterion=None,
        train_class_list=model.train_class_list,
        image_embedding=model.image_embedding,
        candidate_text=model.candidate_text,
        name_table=model.name_table,
    )
    images.void_embedding = model.void_embedding
    return images.eval()


class SegmentationGraph(nn.Module):
    """From images and an encoded vocabulary to mask logits and class log probabilities.

    Args:
        model: a trained model, on the CPU and in float32.
        options: inference options, whose weights of the ensemble become constants.
        example: any vocabulary of this model; its tensors are replaced by the inputs.
    """

    def __init__(self, model: ITA, options: InferenceOptions, example: Vocabulary) -> None:
        super().__init__()
        self.model, self.options, self.example = model, options, example

    @torch.no_grad()
    def forward(
        self,
        image: Tensor,
        size: Tensor,
        text: Tensor,
        class_index: Tensor,
        seen: Tensor,
        candidates: Tensor | None = None,
        candidate_queries: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks and classes of B images.

        Args:
            image: uint8 [B, 3, H, W] RGB, H and W multiples of 32, the image at the top left.
            size: int64 [B, 2], height and width in pixels of each image without its padding.
            text: [N, D], one unit text feature per name (design section 2).
            class_index: int64 [N], the class of each name, in 0 to C - 1.
            seen: bool [C], classes of the training class list.
            candidates: [M, D], unit text features of the candidates for dominant categories;
                None for a model without them.
            candidate_queries: [M, D], the features that become their queries.

        Returns:
            Mask logits [B, Q, H / 4, W / 4] and log probabilities [B, Q, C + 1], void last, after
            the ensemble (design section 7).
        """
        known = self.example.candidates
        if known is not None and candidates is not None and candidate_queries is not None:
            classes = F.pad(class_index, (0, 1), value=-1)
            known = replace(
                known, ranking=candidates, queries=candidate_queries, class_index=classes
            )
        vocabulary = replace(
            self.example, features=text, class_index=class_index, seen=seen, candidates=known
        )
        images = self._encode(image, size)
        decoded = self.model.decode(images, vocabulary)
        scores = self.model.classify(images, decoded, vocabulary, self.options)
        return decoded.predictions[-1].mask_logits, scores

    def _encode(self, image: Tensor, size: Tensor) -> EncodedImages:
        model, (height, width) = self.model, image.shape[-2:]
        normalized = (image - model.pixel_mean) / model.pixel_std
        # As the model pads, with zeros after normalization.
        inside = valid_fraction(size, (height, width), 1, image.device)
        features = model.backbone(normalized * inside[:, None])
        dense, embedding = features[DENSE], None
        if model.dominant is not None:
            embedding = model.embed_dense(dense, size)
        pixel = model.pixel_decoder(features)
        # Sizes of results are the caller's matter.
        return EncodedImages(dense, pixel, embedding, (height, width), [], [])
