"""Contrastive training of the toy world's CLIP on generated image-caption pairs."""

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

from ita.modeling.clip import DENSE, STRIDES, ConvNeXtTower, encode_tokens
from ita.modeling.clip_tokens import token_ids
from ita.toy.captions import SCENE_SIZE, SUBJECTS, Batch, CaptionedViews, all_texts
from ita.toy.clip_training.measuring import ENLARGED

logger = logging.getLogger(__name__)

WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
MAX_LOGIT_SCALE = 100.0
# A logit that has no part in a softmax, yet is finite: times a target of 0 it is 0.
NEVER = -1e4
# timm starts a block's part at a millionth, for the sake of deep networks. Here are nine blocks.
LAYER_SCALE = 0.5
# Side in pixels of scenes of several objects, enlarged as the segmenter sees them.
SCENE_INPUT = ENLARGED * SCENE_SIZE
SECONDS_BETWEEN_MESSAGES = 10.0


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, beside the architecture.

    Attributes:
        seed: of the initial weights, the scenes and the views.
        steps: of the optimizer.
        small_steps: how many of them come first and have views of half the side, and no scenes.
        portraits: scenes drawn of every class of objects alone.
        scenes: scenes of several objects.
        views_per_batch: views of one subject in a batch, beside the scenes; at first, of every
            subject.
        scenes_per_batch: scenes of several objects in a batch.
        lr: greatest learning rate.
    """

    seed: int
    steps: int
    small_steps: int
    portraits: int
    scenes: int
    views_per_batch: int
    scenes_per_batch: int
    lr: float


@dataclass(frozen=True)
class _Tensors:
    """A batch of N captions, of V views and then of N - V windows in S scenes.

    Attributes:
        views: uint8 [V, H, W, 3].
        scenes: uint8 [S, H, W, 3]; None: none.
        scene_of: [N - V] the scene that a window is in.
        windows: [N - V, h, w] how much of each cell of the dense feature is in a window; sums to 1.
        tokens: [N, context].
        named: bool [N, C], the classes that a caption names.
        shown: bool [N, C], those that its image or window counts as showing.
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
    """Train a CLIP; on the CPU the same arguments give the same weights.

    Args:
        config: open_clip's model config.
        recipe: the data and the schedule.
        device: where the model is trained.
        workers: 1 draws the views in a process of its own, 0 in this one; both draw the same.

    Returns:
        The model on the CPU and the ids of all tokens that its captions had.
    """
    start = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        clip = _initial_clip(config).to(device, memory_format=torch.channels_last)
        size = config["vision_cfg"]["image_size"]
        views = CaptionedViews(recipe.seed, recipe.portraits, recipe.scenes, size)
        logger.info("drew the scenes in %.0f s", time.perf_counter() - start)
        tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
        batches = _Batches(views, tokenizer, recipe)
        loader = DataLoader(batches, batch_size=None, num_workers=workers)
        rows = token_ids(tokenizer(list(all_texts())))
        with _few_tokens(clip, rows):
            _optimize(clip, iter(loader), recipe, device, rows)
    return clip.cpu().eval(), rows


@contextmanager
def _few_tokens(clip: open_clip.CLIP, rows: Tensor) -> Iterator[None]:
    """Train the used rows of the token table alone: the optimizer is spared fifty thousand."""
    table = clip.token_embedding.weight.data
    clip.token_embedding = nn.Embedding.from_pretrained(table[rows].clone(), freeze=False)
    yield
    table[rows] = clip.token_embedding.weight.data
    clip.token_embedding = nn.Embedding.from_pretrained(table)


class _Batches(IterableDataset):
    """Endless batches of ``_Tensors``, small ones first."""

    def __init__(
        self, views: CaptionedViews, tokenizer: Callable[[list[str]], Tensor], recipe: Recipe
    ) -> None:
        self.views, self.tokenizer, self.recipe = views, tokenizer, recipe

    def __iter__(self) -> Iterator[_Tensors]:
        views, recipe, size = self.views, self.recipe, self.views.size
        views.size = size // 2
        small = views.batches(len(SUBJECTS), 0, SCENE_INPUT)
        for batch in itertools.islice(small, recipe.small_steps):
            yield self._tensors(batch)
        views.size = size
        for batch in views.batches(recipe.views_per_batch, recipe.scenes_per_batch, SCENE_INPUT):
            yield self._tensors(batch)

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
    """How much of each cell of a square grid is in a box.

    Args:
        boxes: [N, 4] left, top, right, bottom, in 0-1.
        cells: along a side of the grid.

    Returns:
        [N, cells, cells], the weights of a box summing to 1.
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
    # timm's initial weights suit layers of hundreds of channels; in narrow ones nothing comes
    # through at first.
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
    """Train in place a CLIP whose token table has these rows alone."""
    optimizer = _optimizer(clip, recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _factor(s, recipe.steps))
    clip.train()
    start = said = time.perf_counter()
    for step, batch in zip(range(1, recipe.steps + 1), batches, strict=False):
        if not torch.isin(token_ids(batch.tokens), rows).all():
            raise ValueError("a caption has a word that all_texts() lacks")
        batch = replace(batch, tokens=torch.searchsorted(rows, batch.tokens))
        loss = _loss(clip, batch.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        now = time.perf_counter()
        if now - said > SECONDS_BETWEEN_MESSAGES or step == recipe.steps:
            said = now
            left = (now - start) / step * (recipe.steps - step)
            scale = clip.logit_scale.exp().item()
            message = "step %d/%d  loss %.3f  scale %.1f  %.0f s left"
            logger.info(message, step, recipe.steps, loss.item(), scale, left)


def normalized(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] RGB to what CLIP takes: float [B, 3, H, W], channels last."""
    mean, std = (
        torch.tensor(values, device=pixels.device)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


def _loss(clip: open_clip.CLIP, batch: _Tensors) -> Tensor:
    """CLIP's: each image finds its captions in the batch, each caption its image.

    A scene is encoded once for all its windows: a window's embedding is that of the mean of the
    dense feature over it, as a whole image's is that of the mean over all of it.
    """
    image = clip.encode_image(normalized(batch.views))
    if batch.scenes is not None:
        tower = ConvNeXtTower(clip.visual)
        dense = tower.features(normalized(batch.scenes))[DENSE]
        windows = tower.embed_area(dense[batch.scene_of], batch.windows)
        image = torch.cat([image, windows])
    text = encode_tokens(clip, batch.tokens)
    cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    return contrastive_loss(clip.logit_scale.exp() * cosine, batch.named, batch.shown)


def contrastive_loss(logits: Tensor, named: Tensor, shown: Tensor) -> Tensor:
    """CLIP's loss where several captions are true of an image, as ``agreement`` tells.

    An image looks for all captions that are true of it, a caption for the images that it fits best:
    to the caption, a scene of which it tells a part is neither right nor wrong.

    Args:
        logits: [N, N] scaled cosines of image i and caption j.
        named, shown: bool [N, C], the classes of each caption and of each image.
    """
    true, best = agreement(named, shown)
    to_captions = F.cross_entropy(logits, _shares(true))
    rivals = logits.masked_fill(true & ~best, NEVER).T
    return (to_captions + F.cross_entropy(rivals, _shares(best.T))) / 2


def agreement(named: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Which captions are true of which images.

    Args:
        named: bool [N, C], the classes that each caption names.
        shown: bool [N, C], the classes that its image shows.

    Returns:
        Bool [N, N], whether caption j is true of image i: the image shows all that it names; and
        whether it is also the best of image i: its own, or it leaves nothing out.
    """
    absent = (~shown).float() @ named.float().T
    untold = shown.float() @ (~named).float().T
    own = torch.eye(len(named), dtype=torch.bool, device=named.device)
    return absent == 0, (absent == 0) & ((untold == 0) | own)


def _shares(right: Tensor) -> Tensor:
    return right / right.sum(dim=1, keepdim=True)


def _optimizer(clip: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW; biases, norms and scales do not decay."""
    parameters = list(clip.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def _factor(step: int, steps: int) -> float:
    """Of the learning rate: a linear start, then half a cosine down to 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
