"""Contrastive training of the toy CLIP on generated image-caption pairs."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ita.modeling.clip import encode_tokens
from ita.modeling.clip_tokens import token_ids
from ita.modeling.image_towers import DENSE, STRIDES, ImageTower, image_tower
from ita.toy.captions import (
    ALL_THINGS,
    SCENE_SIZE,
    SUBJECTS,
    Batch,
    CaptionedScenes,
    CaptionedViews,
    all_texts,
)
from ita.toy.clip_training.measuring import ENLARGED

logger = logging.getLogger(__name__)

WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
MAX_LOGIT_SCALE = 100.0
# Logit that is excluded from a softmax, but finite: its product with a target of 0 is 0.
NEVER = -1e4
# Initial layer scale. timm's default of 1e-6 is for deep networks; this one has nine blocks.
LAYER_SCALE = 0.5
# Side in pixels of scenes with several objects, enlarged as for segmentation.
SCENE_INPUT = ENLARGED * SCENE_SIZE
# The same in a training on whole scenes: in the small steps and after them. As CLIPs of the web,
# it sees smaller images than a segmentation model.
SMALL_SCENE, LARGE_SCENE = 2 * SCENE_SIZE // 3, 4 * SCENE_SIZE // 3
SECONDS_BETWEEN_MESSAGES = 10.0


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters that determine the weights, in addition to the architecture.

    Attributes:
        seed: random seed of the initial weights, scenes and views.
        steps: number of optimizer steps.
        small_steps: number of initial steps, with views of half the side and without scenes.
        portraits: number of single-object scenes drawn for every class of objects.
        scenes: number of scenes with several objects.
        views_per_batch: number of single-subject views in a batch, in addition to the scenes; the
            small steps have one of every subject.
        scenes_per_batch: number of scenes with several objects in a batch.
        lr: peak learning rate.
        whole_scenes: train on whole scenes only, with captions that name some of their classes; in
            place of a view, there is a scene of a single object.
    """

    seed: int
    steps: int
    small_steps: int
    portraits: int
    scenes: int
    views_per_batch: int
    scenes_per_batch: int
    lr: float
    whole_scenes: bool = False


@dataclass(frozen=True)
class _Tensors:
    """A batch of N captions, for V views followed by N - V windows in S scenes.

    Attributes:
        views: uint8 [V, H, W, 3].
        scenes: uint8 [S, H, W, 3]; None if there are no scenes.
        scene_of: [N - V], index of each window's scene.
        windows: [N - V, h, w], weight of each cell of the dense feature in a window; sums to 1.
        tokens: [N, context].
        named: bool [N, C], classes that each caption names.
        shown: bool [N, C], classes that count as shown by its image or window.
    """

    views: Tensor
    scenes: Tensor | None
    scene_of: Tensor
    windows: Tensor
    tokens: Tensor
    named: Tensor
    shown: Tensor

    def to(self, device: str) -> "_Tensors":
        moved = {
            field.name: tensor.to(device)
            for field in fields(self)
            if (tensor := getattr(self, field.name)) is not None
        }
        return replace(self, **moved)


def train_clip(
    config: Mapping[str, Any], recipe: Recipe, device: str = "cpu", workers: int = 0
) -> tuple[open_clip.CLIP, Tensor]:
    """Train a CLIP: bit for bit reproducible on one CPU thread, up to rounding on several.

    Args:
        config: open_clip model config.
        recipe: data and schedule.
        device: device to train on.
        workers: 1 draws the views in a separate process, 0 in this one; the views are the same.

    Returns:
        The model on the CPU and the ids of all tokens of its captions.
    """
    start = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        clip = _initial_clip(config).to(device, memory_format=torch.channels_last)
        size = config["vision_cfg"]["image_size"]
        tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
        batches = _Batches(recipe, size, tokenizer)
        logger.info("drew the scenes in %.0f s", time.perf_counter() - start)
        loader = DataLoader(batches, batch_size=None, num_workers=workers)
        rows = token_ids(tokenizer(list(all_texts())))
        with _few_tokens(clip, rows):
            _optimize(clip, iter(loader), recipe, device, rows)
    return clip.cpu().eval(), rows


@contextmanager
def _few_tokens(clip: open_clip.CLIP, rows: Tensor) -> Iterator[None]:
    """Train only the used rows of the token embedding instead of about 50,000."""
    table = clip.token_embedding.weight.data
    clip.token_embedding = nn.Embedding.from_pretrained(table[rows].clone(), freeze=False)
    yield
    table[rows] = clip.token_embedding.weight.data
    clip.token_embedding = nn.Embedding.from_pretrained(table)


class _Batches(IterableDataset):
    """Endless batches of ``_Tensors``, small ones first."""

    def __init__(self, recipe: Recipe, size: int, tokenizer: Callable[[list[str]], Tensor]) -> None:
        self.recipe, self.size, self.tokenizer = recipe, size, tokenizer
        self.source: CaptionedScenes | CaptionedViews
        if recipe.whole_scenes:
            self.source = CaptionedScenes(recipe.seed, recipe.portraits, recipe.scenes)
        else:
            self.source = CaptionedViews(recipe.seed, recipe.portraits, recipe.scenes)

    def __iter__(self) -> Iterator[_Tensors]:
        small, large = self._phases()
        small = itertools.islice(small, self.recipe.small_steps)
        yield from map(self._tensors, itertools.chain(small, large))

    def _phases(self) -> tuple[Iterator[Batch], Iterator[Batch]]:
        counts = self.recipe.views_per_batch, self.recipe.scenes_per_batch
        if isinstance(self.source, CaptionedScenes):
            small = self.source.batches(len(ALL_THINGS), 0, SMALL_SCENE)
            return small, self.source.batches(*counts, LARGE_SCENE)
        small = self.source.batches(len(SUBJECTS), 0, self.size // 2, SCENE_INPUT)
        return small, self.source.batches(*counts, self.size, SCENE_INPUT)

    def _tensors(self, batch: Batch) -> _Tensors:
        windows = torch.tensor(batch.windows).view(-1, 5)
        return _Tensors(
            views=_pixels(batch.views),
            scenes=_pixels(batch.scenes) if batch.scenes else None,
            scene_of=windows[:, 0].long(),
            windows=cell_weights(windows[:, 1:], SCENE_INPUT // STRIDES["res5"]),
            tokens=self.tokenizer(batch.captions),
            named=_members(batch.named),
            shown=_members(batch.shown),
        )


def _members(sets: Sequence[frozenset[str]]) -> Tensor:
    return torch.tensor([[subject in names for subject in SUBJECTS] for names in sets])


def _pixels(images: Sequence[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


def cell_weights(boxes: Tensor, cells: int) -> Tensor:
    """Overlap of each cell of a square grid with a box, normalized.

    Args:
        boxes: [N, 4] left, top, right, bottom, in [0, 1].
        cells: number of cells along a side of the grid.

    Returns:
        [N, cells, cells]; the weights of each box sum to 1.
    """
    start = torch.arange(cells, dtype=torch.float32)

    def overlap(low: Tensor, high: Tensor) -> Tensor:
        end = torch.minimum(cells * high[:, None], start + 1)
        return (end - torch.maximum(cells * low[:, None], start)).clamp(min=0)

    left, top, right, bottom = boxes.unbind(dim=1)
    weights = overlap(top, bottom)[:, :, None] * overlap(left, right)[:, None, :]
    return weights / weights.sum(dim=(1, 2), keepdim=True)


def _initial_clip(config: Mapping[str, Any]) -> open_clip.CLIP:
    clip = open_clip.CLIP(**config)
    for name, parameter in clip.visual.named_parameters():
        if name.endswith(".gamma"):
            nn.init.constant_(parameter, LAYER_SCALE)
    # timm's initialization suits layers with hundreds of channels; in narrow ones, activations
    # vanish at first.
    for module in clip.visual.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return clip


def _optimize(
    clip: open_clip.CLIP,
    batches: Iterator[_Tensors],
    recipe: Recipe,
    device: str,
    rows: Tensor,
) -> None:
    """Train in place a CLIP whose token embedding is reduced to ``rows``."""
    optimizer = _optimizer(clip, recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _factor(s, recipe.steps))
    tower = image_tower(clip.visual)
    clip.train()
    start = last_logged = time.perf_counter()
    for step, batch in zip(range(1, recipe.steps + 1), batches, strict=False):
        if not torch.isin(token_ids(batch.tokens), rows).all():
            raise ValueError("a caption has a word that is missing from all_texts()")
        batch = replace(batch, tokens=torch.searchsorted(rows, batch.tokens))
        loss = _loss(clip, tower, batch.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        now = time.perf_counter()
        if now - last_logged > SECONDS_BETWEEN_MESSAGES or step == recipe.steps:
            last_logged = now
            left = (now - start) / step * (recipe.steps - step)
            scale = clip.logit_scale.exp().item()
            message = "step %d/%d  loss %.3f  scale %.1f  %.0f s left"
            logger.info(message, step, recipe.steps, loss.item(), scale, left)


def normalized(pixels: Tensor) -> Tensor:
    """Normalize uint8 [B, H, W, 3] RGB images for CLIP: float [B, 3, H, W], channels last."""
    mean, std = (
        torch.tensor(values, device=pixels.device)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


def _loss(clip: open_clip.CLIP, tower: ImageTower, batch: _Tensors) -> Tensor:
    """CLIP's contrastive loss between the images and captions of a batch.

    A scene is encoded once for all its windows: a window is embedded as the mean of the dense
    feature over it, just as a whole image is embedded as the mean over all of it.
    """
    image = clip.encode_image(normalized(batch.views))
    if batch.scenes is not None:
        dense = tower.features(normalized(batch.scenes))[DENSE]
        windows = tower.embed_area(dense[batch.scene_of], batch.windows)
        image = torch.cat([image, windows])
    text = encode_tokens(clip, batch.tokens)
    cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    return contrastive_loss(clip.logit_scale.exp() * cosine, batch.named, batch.shown)


def contrastive_loss(logits: Tensor, named: Tensor, shown: Tensor) -> Tensor:
    """CLIP's loss with several correct captions per image, as defined by ``agreement``.

    The targets of an image are all correct captions; the targets of a caption are the images that
    it describes best. For a caption, an image that it describes only in part is ignored.

    Args:
        logits: [N, N] scaled cosines of image i and caption j.
        named, shown: bool [N, C], classes that each caption names and each image shows.
    """
    correct, best = agreement(named, shown)
    to_captions = F.cross_entropy(logits, _targets(correct))
    to_images = F.cross_entropy(logits.masked_fill(correct & ~best, NEVER).T, _targets(best.T))
    return (to_captions + to_images) / 2


def agreement(named: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Match captions with images.

    Args:
        named: bool [N, C], classes that each caption names.
        shown: bool [N, C], classes that its image shows.

    Returns:
        Two bool [N, N]: whether caption j is correct for image i, which shows all classes that it
        names; and whether it is also a best caption of image i, its own one or one that names all
        classes shown.
    """
    absent = (~shown).float() @ named.float().T
    unnamed = shown.float() @ (~named).float().T
    own = torch.eye(len(named), dtype=torch.bool, device=named.device)
    return absent == 0, (absent == 0) & ((unnamed == 0) | own)


def _targets(positive: Tensor) -> Tensor:
    """Uniform target distribution over the positives of each row."""
    return positive / positive.sum(dim=1, keepdim=True)


def _optimizer(clip: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW without weight decay for biases, norms and scales."""
    parameters = list(clip.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def _factor(step: int, steps: int) -> float:
    """Learning rate factor: linear warmup and cosine decay to 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
