"""Embeddings of an image in CLIP space: one per mask, and the dense map that they compose to."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from ita.meta_arch import ITA, EncodedImages
from ita.modeling.image_towers import STRIDES
from ita.modeling.vocabulary import Vocabulary

# The stride of mask logits, in pixels of the resized image.
MASK_STRIDE = STRIDES["res2"]


@dataclass(frozen=True, eq=False)
class Embedding:
    """Masks of an image with their vectors in CLIP space, comparable with those of texts.

    Attributes:
        vectors: float32 [N, D], the embedding of each mask's region by the frozen CLIP (design
            section 1), a unit vector.
        masks: float32 [N, h, w], mask probabilities in 0-1 of cells of 4 x 4 pixels of the image
            resized for the model; they may overlap. The last row and column may reach beyond the
            image by up to 3 pixels.
        image_size: (H, W) of the image in pixels.
    """

    vectors: np.ndarray
    masks: np.ndarray
    image_size: tuple[int, int]

    @cached_property
    def dense(self) -> np.ndarray:
        """Embedding of every cell, float32 [D, h, w].

        It is the sum over the masks of probability times vector, scaled to a unit vector; 0 without
        masks.
        """
        total = np.tensordot(self.vectors, self.masks, axes=(0, 0))
        norm = np.linalg.norm(total, axis=0, keepdims=True)
        return total / np.maximum(norm, np.finfo(np.float32).tiny)


@torch.no_grad()
def embed_masks(model: ITA, images: EncodedImages, vocabulary: Vocabulary) -> Embedding:
    """Embed the masks of an image that cover a cell of CLIP's dense feature.

    Args:
        model: the network.
        images: features of one image.
        vocabulary: its most likely names become the decoder's text queries.
    """
    prediction = model.decode(images, vocabulary).predictions[-1]
    # In float32 also under mixed precision, like the scores of a segmentation.
    with torch.autocast(model.device.type, enabled=False):
        regions, usable = model.embed_regions(images, prediction)
        vectors = F.normalize(regions[0][usable[0]].float(), dim=-1)
        masks = prediction.mask_logits[0][usable[0]].float().sigmoid()
    height, width = (-(-side // MASK_STRIDE) for side in images.sizes[0])
    return Embedding(
        vectors.cpu().numpy(), masks[:, :height, :width].cpu().numpy(), images.output_sizes[0]
    )
