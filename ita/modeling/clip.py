"""The frozen CLIP: image tower, text tower and projection of pooled features into CLIP space.

Paper section 3.1, design section 1. All sizes are read from the CLIP model; none is tabulated by
model name.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import open_clip
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from ita.errors import UserError

STAGES = ("res2", "res3", "res4", "res5")
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
DENSE = "dense"
# Texts per forward pass of the text tower.
TEXT_BATCH = 512


class ImageTower(Protocol):
    """Interface of the two kinds of convolutional image towers."""

    channels: dict[str, int]

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute res2 ... res5 and the dense CLIP feature of images [B, 3, H, W]."""

    def embed_masks(self, dense: Tensor, mask: Tensor) -> Tensor:
        """Pool a dense feature [B, C, h, w] over masks [B, Q, h, w] -> CLIP space [B, Q, D]."""

    def embed_area(self, dense: Tensor, weights: Tensor) -> Tensor:
        """Pool a dense feature with cell weights [B, h, w] that sum to 1 -> [B, D]."""


class ConvNeXtTower:
    """A timm ConvNeXt with CLIP's head; pooled vectors pass the trunk's and CLIP's heads."""

    def __init__(self, visual: TimmModel) -> None:
        self.trunk, self.head = visual.trunk, visual.head
        self.channels = {
            name: info["num_chs"]
            for name, info in zip(STAGES, self.trunk.feature_info, strict=True)
        }

    def features(self, images: Tensor) -> dict[str, Tensor]:
        features, x = {}, self.trunk.stem(images)
        for name, stage in zip(STAGES, self.trunk.stages, strict=True):
            features[name] = x = stage(x)
        return features | {DENSE: self.trunk.norm_pre(x)}

    def embed_masks(self, dense: Tensor, mask: Tensor) -> Tensor:
        weights = mask / (mask.sum(dim=(-2, -1), keepdim=True) + 1e-8)
        pooled = torch.einsum("bchw,bqhw->bqc", dense, weights.to(dense.dtype))
        return self._project(pooled.flatten(0, 1)).unflatten(0, mask.shape[:2])

    def embed_area(self, dense: Tensor, weights: Tensor) -> Tensor:
        return self._project(torch.einsum("bchw,bhw->bc", dense, weights.to(dense.dtype)))

    def _project(self, pooled: Tensor) -> Tensor:
        return self.head(self.trunk.head(pooled[:, :, None, None]))


class ResNetTower:
    """OpenAI's modified ResNet; regions are pooled by CLIP's attention pooling, one query each."""

    def __init__(self, visual: ModifiedResNet) -> None:
        self.visual = visual
        self.layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        self.channels = {
            name: layer[-1].conv3.out_channels
            for name, layer in zip(STAGES, self.layers, strict=True)
        }

    def features(self, images: Tensor) -> dict[str, Tensor]:
        v = self.visual
        x = v.act1(v.bn1(v.conv1(images)))
        x = v.act2(v.bn2(v.conv2(x)))
        x = v.avgpool(v.act3(v.bn3(v.conv3(x))))
        features = {}
        for name, layer in zip(STAGES, self.layers, strict=True):
            features[name] = x = layer(x)
        return features | {DENSE: x}

    def embed_masks(self, dense: Tensor, mask: Tensor) -> Tensor:
        mean = dense.mean(dim=(-2, -1))
        return self._attend(mean[:, None].expand(-1, mask.shape[1], -1), dense, mask)

    def embed_area(self, dense: Tensor, weights: Tensor) -> Tensor:
        mean = torch.einsum("bchw,bhw->bc", dense, weights.to(dense.dtype))
        return self._attend(mean[:, None], dense, weights[:, None] > 0)[:, 0]

    def _attend(self, query: Tensor, dense: Tensor, mask: Tensor) -> Tensor:
        """CLIP's attention pooling of queries [B, Q, C] over the cells of a mask."""
        pool = self.visual.attnpool
        keys = dense.flatten(2).transpose(1, 2) + self._resized_position(dense.shape[-2:])

        def heads(x: Tensor, projection: nn.Linear) -> Tensor:
            return projection(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)

        allowed = mask.flatten(2)
        # The softmax over an empty region is undefined; attend to the whole image instead.
        allowed = allowed | ~allowed.any(dim=-1, keepdim=True)
        pooled = F.scaled_dot_product_attention(
            heads(query + pool.positional_embedding[0], pool.q_proj),
            heads(keys, pool.k_proj),
            heads(keys, pool.v_proj),
            attn_mask=allowed[:, None],
        )
        return pool.c_proj(pooled.transpose(1, 2).flatten(2))

    def _resized_position(self, size: Sequence[int]) -> Tensor:
        """Resize the position embedding to the dense feature's size: [1, h*w, C]."""
        position = self.visual.attnpool.positional_embedding[1:]
        side = round(len(position) ** 0.5)
        grid = position.T.reshape(1, -1, side, side)
        grid = F.interpolate(grid, size=tuple(size), mode="bilinear", align_corners=False)
        return grid.flatten(2).transpose(1, 2)


class FrozenCLIP(Backbone):
    """A frozen CLIP model: no gradients, always in eval mode.

    Args:
        clip: an open_clip model with a ConvNeXt or ResNet image tower, with weights and
            ``preprocess_cfg`` set.
        tokenizer: texts -> [N, context] int64 token ids.

    Raises:
        UserError: the image tower is neither a ConvNeXt nor a ResNet.
    """

    def __init__(self, clip: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        # open_clip's classes are untyped.
        self.clip: Any = clip.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        visual: Any = clip.visual
        self.tower = _image_tower(visual)
        self.preprocess_config = PreprocessCfg(**visual.preprocess_cfg)
        self.embed_dim: int = self._text_width()

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Keep CLIP in eval mode regardless of ``mode``."""
        super().train(mode)
        self.clip.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.clip.logit_scale.device

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's log scale of cosine similarities, a scalar."""
        return self.clip.logit_scale

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
        return self.tower.features(images)

    @torch.no_grad()
    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed the regions with positive mask logits in CLIP space.

        Args:
            dense: [B, C, h, w], the dense CLIP feature.
            mask_logits: [B, Q, h, w] at the same size.

        Returns:
            [B, Q, D], not normalized; an empty mask yields the embedding of a zero vector
            (ConvNeXt) or of the whole image (ResNet).
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
    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Embed whole images with CLIP's own evaluation transform and image encoder.

        Args:
            images: B uint8 tensors [3, H, W], RGB, of any sizes.

        Returns:
            [B, D], not normalized.
        """
        transform = image_transform_v2(self.preprocess_config, is_train=False)
        batch = torch.stack([transform(to_pil_image(image.cpu())) for image in images])
        return self.clip.encode_image(batch.to(self.device))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts as features, not normalized.

        Args:
            texts: N texts.

        Returns:
            [N, D] float32 on CLIP's device.
        """
        tokens = self.tokenizer(list(texts))
        # Batch texts of similar length: a batch is only as long as its longest text.
        order = tokens.argmax(dim=-1).argsort()
        with torch.autocast(self.device.type, enabled=False):
            batches = [self._encode_tokens(tokens[rows]) for rows in order.split(TEXT_BATCH)]
        return torch.cat(batches).float()[order.argsort().to(self.device)]

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """Encode token ids [N, context] as features [N, D]."""
        tokens, clip = tokens.to(self.device), self.clip
        if not (isinstance(clip, open_clip.CLIP) and clip.text_pool_type == "argmax"):
            return clip.encode_text(tokens)
        return encode_tokens(clip, tokens)

    def _text_width(self) -> int:
        return self.encode_text([""]).shape[-1]


def encode_tokens(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Encode token ids [N, context] as features [N, D] with a causal text transformer.

    Features are pooled at the end-of-text token, which has the largest id, so positions after the
    longest text have no effect and are dropped: class names need a fifth of the 77 positions.
    """
    length = int(tokens.argmax(dim=-1).max()) + 1
    tokens = tokens[:, :length]
    x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    x = x[torch.arange(len(x)), tokens.argmax(dim=-1)]
    projection = clip.text_projection
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _image_tower(visual: nn.Module) -> ImageTower:
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "stages"):
        return ConvNeXtTower(visual)
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    raise UserError(
        f"the image tower of this CLIP is a {type(visual).__name__}; ITA requires a convolutional "
        "one: choose a convnext_* or RN* model"
    )
