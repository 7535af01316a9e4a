"""Contrastive training of the toy world's CLIP on generated image-caption pairs."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ita.data.toy.captions import CaptionedViews, all_texts
from ita.modeling.clip_tokens import token_ids

logger = logging.getLogger(__name__)

WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
MAX_LOGIT_SCALE = 100.0
# timm starts a block's part at a millionth, for the sake of deep networks. Here are nine blocks.
LAYER_SCALE = 0.5
SECONDS_BETWEEN_MESSAGES = 10.0


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, beside the architecture.

    Attributes:
        seed: of the initial weights, the scenes and the views.
        steps: of the optimizer.
        small_steps: how many of them come first and have views of half the side.
        portraits: scenes drawn of every class of objects alone.
        scenes: scenes of several objects.
        scenes_per_batch: such scenes in a batch, beside a view of every class.
        lr: greatest learning rate.
    """

    seed: int
    steps: int
    small_steps: int
    portraits: int
    scenes: int
    scenes_per_batch: int
    lr: float


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
    """Endless batches of uint8 images [B, S, S, 3] and token ids [B, context]."""

    def __init__(
        self, views: CaptionedViews, tokenizer: Callable[[list[str]], Tensor], recipe: Recipe
    ) -> None:
        self.views, self.tokenizer, self.recipe = views, tokenizer, recipe

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.views.size
        batches = self.views.batches(self.recipe.scenes_per_batch)
        for step in itertools.count():
            self.views.size = size // 2 if step < self.recipe.small_steps else size
            images, captions = next(batches)
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            yield pixels, self.tokenizer(captions)


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
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    device: str,
    rows: Tensor,
) -> None:
    """Train in place a CLIP whose token table has these rows alone."""
    optimizer = _optimizer(clip, recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _factor(s, recipe.steps))
    clip.train()
    start = said = time.perf_counter()
    for step, (pixels, tokens) in zip(range(1, recipe.steps + 1), batches, strict=False):
        tokens = torch.searchsorted(rows, tokens).to(device)
        loss = _loss(clip, normalized(pixels.to(device)), tokens)
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


def _loss(clip: open_clip.CLIP, images: Tensor, tokens: Tensor) -> Tensor:
    """CLIP's: each image finds its caption in the batch, each caption its image."""
    # The text transformer is causal: nothing behind the end of the longest caption counts.
    length = int(tokens.argmax(dim=-1).max()) + 1
    text = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    text = clip.ln_final(clip.transformer(text, attn_mask=clip.attn_mask[:length, :length]))
    text = text[torch.arange(len(text)), tokens.argmax(dim=-1)] @ clip.text_projection
    image = F.normalize(clip.encode_image(images), dim=-1)
    logits = clip.logit_scale.exp() * image @ F.normalize(text, dim=-1).T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


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
