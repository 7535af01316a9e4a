"""CLIP's convolutional image towers: features at four strides, and regions in CLIP space.

Paper section 3.1, design section 1. All sizes are read from the tower; none is tabulated by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.layers import GELU, Mlp
from torch import Tensor, nn

from ita.errors import UserError
from ita.modeling.layers import FrozenMLP

STAGES = ("res2", "res3", "res4", "res5")
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
DENSE = "dense"
# Height and width of the image that a tower is tried with; not square, as a tower must accept any.
TRIAL_SIZE = (64, 96)


class ImageTower(Protocol):
    """Interface of the two kinds of convolutional image towers."""

    channels: dict[str, int]
    embed_dim: int

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the matrices of the stages are stored."""

    def stages(self) -> Sequence[nn.Module]:
        """Return the modules that compute the features, without the projection to CLIP space."""

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute res2 ... res5 and the dense CLIP feature of images [B, 3, H, W]."""

    def embed_masks(self, dense: Tensor, mask: Tensor) -> Tensor:
        """Pool a dense feature [B, C, h, w] over masks [B, Q, h, w] -> CLIP space [B, Q, D]."""

    def embed_area(self, dense: Tensor, weights: Tensor) -> Tensor:
        """Pool a dense feature with cell weights [B, h, w] that sum to 1 -> [B, D]."""

    def embed_places(self, dense: Tensor, weights: Tensor) -> Tensor:
        """Pool 2 × 2 cells from each cell on, with cell weights [B, h, w] -> [B, h * w, D]."""


def image_tower(visual: nn.Module) -> ImageTower:
    """Wrap the image tower of an open_clip model.

    Raises:
        UserError: the tower does not have four stages at strides 4 to 32, requires a fixed image
            size, or pools in a way that is not defined for regions.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, TimmModel):
        return TimmTower(visual)
    raise _refusal(visual, "has no such stages")


class TimmTower:
    """A timm model, in eval mode, that pools by averaging; pooled vectors pass its head and CLIP's.

    The dense feature is the last one before pooling: after ``norm_pre`` in a ConvNeXt, after the
    final convolution in a FastViT. The mean of all its cells is embedded as CLIP embeds the image.
    """

    def __init__(self, visual: TimmModel) -> None:
        self.visual, self.trunk = visual, visual.trunk
        _replace_mlps(self.trunk)
        self.indices = _stage_indices(self.trunk)
        weight = next(self.trunk.parameters())
        with torch.no_grad(), _refusing_failures(self.trunk):
            features = self.features(weight.new_zeros(1, 3, *TRIAL_SIZE))
        self._check_sizes(features)
        self.channels = {name: features[name].shape[1] for name in STAGES}
        with torch.no_grad(), _refusing_failures(self.trunk):
            self.embed_dim: int = self._project(features[DENSE].mean(dim=(-2, -1))).shape[-1]
            averages = weight.is_meta or self._pools_by_averaging(features[DENSE].shape)
        if not averages:
            raise _refusal(self.trunk, "does not pool by averaging")

    @property
    def dtype(self) -> torch.dtype:
        return _matrix_dtype(self.trunk)

    def stages(self) -> Sequence[nn.Module]:
        return [module for name, module in self.trunk.named_children() if name != "head"]

    def features(self, images: Tensor) -> dict[str, Tensor]:
        dense, stages = self.trunk.forward_intermediates(images, indices=self.indices)
        return dict(zip(STAGES, stages, strict=True)) | {DENSE: dense}

    def embed_masks(self, dense: Tensor, mask: Tensor) -> Tensor:
        weights = mask / (mask.sum(dim=(-2, -1), keepdim=True) + 1e-8)
        pooled = torch.einsum("bchw,bqhw->bqc", dense, weights.to(dense.dtype))
        return self._project(pooled.flatten(0, 1)).unflatten(0, mask.shape[:2])

    def embed_area(self, dense: Tensor, weights: Tensor) -> Tensor:
        return self._project(torch.einsum("bchw,bhw->bc", dense, weights.to(dense.dtype)))

    def embed_places(self, dense: Tensor, weights: Tensor) -> Tensor:
        pooled = _means_of_squares(dense, weights)
        return self._project(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])

    def _project(self, pooled: Tensor) -> Tensor:
        return self._head(pooled[:, :, None, None])

    def _head(self, dense: Tensor) -> Tensor:
        """The rest of the tower after the dense feature: [B, C, h, w] -> [B, D]."""
        return self.visual.head(self.trunk.forward_head(dense))

    def _check_sizes(self, features: Mapping[str, Tensor]) -> None:
        for name, feature in features.items():
            stride = STRIDES.get(name, STRIDES["res5"])
            if feature.ndim != 4 or [stride * n for n in feature.shape[-2:]] != list(TRIAL_SIZE):
                size = " x ".join(map(str, TRIAL_SIZE))
                shape = list(feature.shape)
                raise _refusal(self.trunk, f"has {shape} for {name} of {size} pixels")

    def _pools_by_averaging(self, shape: torch.Size) -> bool:
        generator = torch.Generator().manual_seed(0)
        dense = torch.randn(shape, generator=generator).to(next(self.trunk.parameters()))
        whole, mean = self._head(dense), self._project(dense.mean(dim=(-2, -1)))
        difference = (whole - mean).abs().max() if whole.shape == mean.shape else torch.inf
        return bool(difference <= 1e-3 * mean.abs().max())


def _matrix_dtype(tower: nn.Module) -> torch.dtype:
    """Precision of the first convolution, which belongs to the stem."""
    return next(module.weight.dtype for module in tower.modules() if isinstance(module, nn.Conv2d))


def _replace_mlps(trunk: nn.Module) -> None:
    """Have the MLPs of a frozen trunk computed without storing their hidden features."""
    for parent in list(trunk.modules()):
        for name, child in parent.named_children():
            if type(child) is Mlp and _is_plain(child):
                linears: list[Any] = [child.fc1, child.fc2]  # not convolutions, as _is_plain saw
                setattr(parent, name, FrozenMLP(*linears))


def _is_plain(mlp: Mlp) -> bool:
    linear, plain_norm = isinstance(mlp.fc1, nn.Linear), isinstance(mlp.norm, nn.Identity)
    return linear and plain_norm and isinstance(mlp.act, GELU)


def _stage_indices(trunk: Any) -> list[int]:
    """Return which of a timm model's features are res2 ... res5, by timm's description of it."""
    strides = [info["reduction"] for info in getattr(trunk, "feature_info", [])]
    # Many models have another feature after the first convolution, at stride 2.
    if [stride for stride in strides if stride > 2] != list(STRIDES.values()):
        found = ", ".join(map(str, dict.fromkeys(strides))) or "unknown"
        raise _refusal(trunk, f"has features at strides {found}")
    return [strides.index(stride) for stride in STRIDES.values()]


@contextmanager
def _refusing_failures(trunk: nn.Module) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # such as an assertion about the size
        size = " x ".join(map(str, TRIAL_SIZE))
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
        raise _refusal(trunk, f"fails for {size} pixels ({reason})") from error


class ResNetTower:
    """OpenAI's modified ResNet; regions are pooled by CLIP's attention pooling, one query each."""

    def __init__(self, visual: ModifiedResNet) -> None:
        self.visual = visual
        self.layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        self.channels = {
            name: layer[-1].conv3.out_channels
            for name, layer in zip(STAGES, self.layers, strict=True)
        }
        self.embed_dim: int = visual.attnpool.c_proj.out_features

    @property
    def dtype(self) -> torch.dtype:
        return _matrix_dtype(self.visual)

    def stages(self) -> Sequence[nn.Module]:
        return [module for module in self.visual.children() if module is not self.visual.attnpool]

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

    def embed_places(self, dense: Tensor, weights: Tensor) -> Tensor:
        height, width = dense.shape[-2:]
        # The squares that contain each cell; transposed, the cells of each square.
        cells = torch.eye(height * width, device=dense.device).view(-1, height, width)
        squares = (sums_of_squares(cells) > 0).flatten(1).T.view(-1, height, width)
        mask = squares & (weights > 0)[:, None]
        return self._attend(_means_of_squares(dense, weights), dense, mask)

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


def sums_of_squares(values: Tensor) -> Tensor:
    """Sum 2 × 2 cells from each cell on, zeros beyond the border: [..., h, w] -> [..., h, w]."""
    values = F.pad(values, (0, 1, 0, 1))
    rows = values[..., :-1, :] + values[..., 1:, :]
    return rows[..., :-1] + rows[..., 1:]


def _means_of_squares(dense: Tensor, weights: Tensor) -> Tensor:
    """Weighted means of 2 × 2 cells: [B, C, h, w], [B, h, w] -> [B, h * w, C]; 0 without weight."""
    weights = weights.to(dense.dtype)[:, None]
    means = sums_of_squares(dense * weights) / sums_of_squares(weights).clamp(min=1e-8)
    return means.flatten(2).transpose(1, 2)


def _refusal(tower: nn.Module, why: str) -> UserError:
    return UserError(
        "ITA requires a CLIP with a convolutional image tower of four stages at strides 4, 8, 16, "
        f"32, such as convnext_* or RN*; the {type(tower).__name__} of this one {why}"
    )
