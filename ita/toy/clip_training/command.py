"""Training the toy CLIP in a folder and measuring its weights."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from ita.errors import UserError
from ita.files import PACKAGE, sha256_of
from ita.modeling.clip_tokens import save_clip
from ita.modeling.clip_weights import build_clip
from ita.toy.captions import SUBJECTS
from ita.toy.clip_training.card import (
    CONFIG,
    WEIGHTS,
    Training,
    read_config,
    read_training,
    write_card,
    write_training,
)
from ita.toy.clip_training.measuring import HELD_OUT_SEED, Measured, measure
from ita.toy.clip_training.training import Recipe, train_clip


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """Return the training recipe of command-line options.

    Raises:
        UserError: a number is out of range.
    """
    recipe = Recipe(**{field.name: options[field.name] for field in fields(Recipe)})
    if not 0 <= recipe.seed < HELD_OUT_SEED:
        raise UserError(f"--seed must be at least 0 and less than {HELD_OUT_SEED}")
    if recipe.small_steps < 0 or recipe.views_per_batch > len(SUBJECTS):
        raise UserError(
            f"--small-steps must be at least 0, --views-per-batch at most {len(SUBJECTS)}"
        )
    if recipe.scenes_per_batch > recipe.scenes:
        raise UserError("--scenes-per-batch must be at most --scenes")
    return recipe


def train(folder: Path, recipe: Recipe, device: str = "cpu", workers: int = 0) -> None:
    """Train the model of the folder's config and write its weights and ``training.json``.

    Raises:
        UserError: the config is missing, or the folder cannot be written.
    """
    config = read_config(folder)
    start = time.perf_counter()
    clip, rows = train_clip(config, recipe, device, workers)
    seconds = round(time.perf_counter() - start)
    save_clip(clip, folder / WEIGHTS, rows)
    sha256 = sha256_of(folder / WEIGHTS)
    command = _command(folder, recipe, device)
    hardware = "a GPU" if device == "cuda" else f"the CPU ({torch.get_num_threads()} threads)"
    write_training(folder, Training(recipe, command, seconds, hardware, len(rows), sha256))


def measure_and_describe(folder: Path, views: int, scenes: int, device: str = "cpu") -> Measured:
    """Measure the weights, loaded as in a training run, and write the model card.

    Raises:
        UserError: the weights are missing or do not match ``training.json``.
    """
    read_training(folder)
    clip = build_clip(str((folder / CONFIG).resolve()), str(folder.resolve())).to(device)
    measured = measure(clip, views, scenes)
    write_card(folder, measured)
    return measured


def _command(folder: Path, recipe: Recipe, device: str) -> str:
    words = ["ita", "toy", "train-clip"]
    if folder.resolve() != PACKAGE / "toy" / "clip":
        words += ["--output", str(folder)]
    if device != "cpu":
        words += ["--device", device]
    for name, value in asdict(recipe).items():
        if isinstance(value, bool):
            words += [f"--{name.replace('_', '-')}"] if value else []
            continue
        words += [f"--{name.replace('_', '-')}", f"{value:g}" if name == "lr" else str(value)]
    return shlex.join(words)
