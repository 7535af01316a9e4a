"""The frozen CLIP: image tower, text tower and projection of pooled features into CLIP space.

Paper section 3.1, design section 1. All sizes are read from the CLIP model; none is tabulated by
model name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from ita.modeling.image_towers import STAGES, STRIDES, image_tower, sums_of_squares
from ita.modeling.ops.plain import plain_selected
from ita.modeling.text_prefixes import can_share_prefixes, encode_prefixes, project_text

# Texts per forward pass of the text tower.
TEXT_BATCH = 512


class FrozenCLIP(Backbone):
    """A frozen CLIP model: no gradients, always in eval mode.

    Args:
        clip: an open_clip model with a convolutional image tower, with weights and
            ``preprocess_cfg`` set.
        tokenizer: texts -> [N, context] int64 token ids.

    Raises:
        UserError: the image tower is not supported (:func:`ita.modeling.image_towers.image_tower`).
    """

    def __init__(self, clip: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        # open_clip's classes are untyped.
        self.clip: Any = clip.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        visual: Any = clip.visual
        self.tower = image_tower(visual)
        self.preprocess_config = PreprocessCfg(**visual.preprocess_cfg)

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Keep CLIP in eval mode regardless of ``mode``."""
        super().train(mode)
        self.clip.eval()
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> "FrozenCLIP":
        """Move or cast the weights, and arrange those of the image tower for the device."""
        super()._apply(*args, **kwargs)
        self.clip.visual.to(memory_format=self.memory_format)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.clip.logit_scale.device

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of images and of the image tower's weights."""
        # Convolutions of GPUs and in low precision are faster in channels-last layout. In float32
        # on CPUs it changes the rounding of ResNets, enough to move a cell of a mask, and is no
        # faster for a ConvNeXt.
        plain = self.device.type != "cuda" and self.tower.dtype == torch.float32
        return torch.contiguous_format if plain else torch.channels_last

    def store_stages(self, dtype: torch.dtype) -> None:
        """Store the matrices of the image tower's stages in the precision of their products.

        This halves their memory, and autocast no longer converts them in every pass. Vectors and
        the projection to CLIP space stay as they are.
        """
        for stage in self.tower.stages():
            for module in stage.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(dtype)
        self.clip.visual.to(memory_format=self.memory_format)

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's log scale of cosine similarities, a scalar."""
        return self.clip.logit_scale

    @property
    def embed_dim(self) -> int:
        """D, the width of CLIP space."""
        return self.tower.embed_dim

    @property
    def channels(self) -> dict[str, int]:
        """Widths of res2 ... res5."""
        return self.tower.channels

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Widths and strides of res2 ... res5."""
        return {
            name: ShapeSpec(channels=self.channels[name], stride=STRIDES[name]) for name in STAGES
        }

    @property
    def size_divisibility(self) -> int:
        """Required divisor of image heights and widths."""
        return STRIDES["res5"]

    @property
    def pixel_mean(self) -> list[float]:
        """Mean of RGB in 0-255."""
        return [255 * m for m in self.preprocess_config.mean]

    @property
    def pixel_std(self) -> list[float]:
        """Standard deviation of RGB in 0-255."""
        return [255 * s for s in self.preprocess_config.std]

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the features of a batch of normalized images.

        Args:
            images: [B, 3, H, W], H and W multiples of 32.

        Returns:
            ``res2`` ... ``res5`` at strides 4 ... 32 and ``dense``, CLIP's last feature before
            pooling, at stride 32.
        """
        images = images.contiguous(memory_format=self.memory_format)
        if self.tower.dtype == torch.float32:
            return self.tower.features(images)
        with torch.autocast(self.device.type, self.tower.dtype):
            features = self.tower.features(images)
        return {name: feature.float() for name, feature in features.items()}

    @torch.no_grad()
    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed the regions with positive mask logits in CLIP space.

        Args:
            dense: [B, C, h, w], the dense CLIP feature.
            mask_logits: [B, Q, h, w] at the same size.

        Returns:
            [B, Q, D], not normalized; an empty mask yields the embedding of a zero vector or, with
            attention pooling (OpenAI's ResNets), of the whole image.
        """
        return self.tower.embed_masks(dense, mask_logits > 0)

    @torch.no_grad()
    def embed_area(self, dense: Tensor, fraction: Tensor) -> Tensor:
        """Embed the valid area of each image in CLIP space.

        Args:
            dense: [B, C, h, w], the dense CLIP feature.
            fraction: [B, h, w], valid fraction of each stride-32 cell, in 0-1.

        Returns:
            [B, D], not normalized.
        """
        return self.tower.embed_area(dense, fraction / fraction.sum(dim=(-2, -1), keepdim=True))

    @torch.no_grad()
    def embed_places(self, dense: Tensor, fraction: Tensor) -> Tensor:
        """Embed every place of each image in CLIP space: a cell, and those right of and below it.

        Args:
            dense: [B, C, h, w], the dense CLIP feature.
            fraction: [B, h, w], valid fraction of each stride-32 cell, in 0-1.

        Returns:
            [B, h * w, D], row by row. The length of a vector is the valid fraction of its 2 × 2
            cells, where those beyond the border count as padding.
        """
        valid = sums_of_squares(fraction).flatten(1) / 4
        return F.normalize(self.tower.embed_places(dense, fraction), dim=-1) * valid[..., None]

    @torch.no_grad()
    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Embed whole images with CLIP's own evaluation transform and image encoder.

        Args:
            images: B uint8 tensors [3, H, W], RGB, of any sizes.

        Returns:
            [B, D], not normalized.
        """
        transform = image_transform_v2(self.preprocess_config, is_train=False)
        batch = torch.stack([transform(to_pil_image(image.cpu())) for image in images])
        dtype = self.tower.dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.clip.encode_image(batch.to(self.device)).float()

    @torch.no_grad()
    def encode_text(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None
    ) -> Tensor:
        """Encode texts as features, not normalized.

        Args:
            texts: N texts.
            advance: called with the number of texts that have just been encoded.

        Returns:
            [N, D] float32 on CLIP's device.
        """
        if not texts:
            return torch.empty(0, self.embed_dim, dtype=torch.float32, device=self.device)
        tokens = self.tokenizer(list(texts))
        with torch.autocast(self.device.type, enabled=False):
            return self._encode_tokens(tokens, advance).float()

    def _encode_tokens(self, tokens: Tensor, advance: Callable[[int], None]) -> Tensor:
        """Encode token ids [N, context] as features [N, D]."""
        if can_share_prefixes(self.clip) and not plain_selected():
            return encode_prefixes(self.clip, tokens, advance)
        features = []
        for batch in tokens.split(TEXT_BATCH):
            features.append(self.clip.encode_text(batch.to(self.device)))
            advance(len(batch))
        return torch.cat(features)


def encode_tokens(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Encode token ids [N, context] as features [N, D] with a causal text transformer.

    Features are pooled at the end-of-text token, which has the largest id, so positions after the
    longest text have no effect and are dropped: class names need a fifth of the 77 positions.
    """
    return encode_trimmed_tokens(clip, tokens[:, : int(tokens.argmax(dim=-1).max()) + 1])


def encode_trimmed_tokens(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Compute :func:`encode_tokens` of token ids [N, length], as long as the longest text."""
    # By numbers, since exporters take a slice to be shorter than the context.
    texts, positions = (torch.arange(size, device=tokens.device) for size in tokens.shape)
    dtype = clip.transformer.get_cast_dtype()
    x = clip.token_embedding(tokens).to(dtype) + clip.positional_embedding[positions].to(dtype)
    mask = clip.attn_mask[positions][:, positions]
    x = clip.ln_final(clip.transformer(x, attn_mask=mask))
    return project_text(clip, x[texts, tokens.argmax(dim=-1)])
