"""Train the tiny CLIP of the toy world on generated image-caption pairs, and measure it.

    python tools/train_toy_clip.py                  the weights that the project ships
    python tools/train_toy_clip.py --measure-only   measure them again

The output folder holds the model's open_clip_config.json and gets its weights, training.json and a
card, README.md, with the zero-shot accuracy. MODEL.FC_CLIP's CLIP_MODEL_NAME names the config,
CLIP_PRETRAINED_WEIGHTS the folder.
"""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from ita.data.toy.captions import SUBJECTS
from ita.errors import UserError
from ita.modeling.clip_tokens import save_clip
from ita.modeling.clip_weights import build_clip
from tools.toy_clip.card import (
    CONFIG,
    WEIGHTS,
    Training,
    read_config,
    read_training,
    report,
    sha256_of,
    write_card,
    write_training,
)
from tools.toy_clip.measuring import HELD_OUT_SEED, Measured, measure
from tools.toy_clip.training import Recipe, train_clip

DEFAULT_OUTPUT = Path("configs/toy/clip")
INTERRUPTED = 130


def train(folder: Path, recipe: Recipe, device: str = "cpu", workers: int = 0) -> None:
    """Train the model of the folder's config and write its weights and ``training.json``.

    Raises:
        UserError: no config in the folder, or the folder cannot be written.
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
    """Measure the folder's weights, loaded as by a training run, and write the card.

    Raises:
        UserError: no weights, or not those of ``training.json``.
    """
    read_training(folder)
    clip = build_clip(str((folder / CONFIG).resolve()), str(folder.resolve())).to(device)
    measured = measure(clip, views, scenes)
    write_card(folder, measured)
    return measured


def _command(folder: Path, recipe: Recipe, device: str) -> str:
    words = ["python", "tools/train_toy_clip.py"]
    if folder.resolve() != DEFAULT_OUTPUT.resolve():
        words += ["--output", str(folder)]
    if device != "cpu":
        words += ["--device", device]
    for name, value in asdict(recipe).items():
        words += [f"--{name.replace('_', '-')}", f"{value:g}" if name == "lr" else str(value)]
    return shlex.join(words)


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=DEFAULT_OUTPUT, help="folder (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed gives other weights")
    add("--steps", type=int, default=7500, help="optimizer steps (default: %(default)s)")
    add(
        "--small-steps",
        type=int,
        default=3500,
        help="of them at half the side (default: %(default)s)",
    )
    add("--portraits", type=int, default=120, help="of each object class (default: %(default)s)")
    add("--scenes", type=int, default=4000, help="of several objects (default: %(default)s)")
    add("--views-per-batch", type=int, default=64, help="beside scenes (default: %(default)s)")
    add("--scenes-per-batch", type=int, default=24, help="default: %(default)s")
    add("--lr", type=float, default=2e-3, help="greatest learning rate (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--workers", type=int, choices=(0, 1), default=1, help="1 draws views in a process aside")
    add("--views", type=int, default=8, help="measured of each class (default: %(default)s)")
    add("--held-out-scenes", type=int, default=200, help="measured (default: %(default)s)")
    add("--measure-only", action="store_true", help="measure weights that are there")
    arguments = parser.parse_args(words)
    if not 0 <= arguments.seed < HELD_OUT_SEED:
        parser.error(f"--seed is at least 0 and less than {HELD_OUT_SEED}")
    counts = ("steps", "portraits", "scenes", "views_per_batch", "scenes_per_batch")
    if min(getattr(arguments, name) for name in (*counts, "views", "held_out_scenes")) < 1:
        parser.error("numbers of steps, portraits, scenes and views are at least 1")
    if arguments.small_steps < 0 or arguments.views_per_batch > len(SUBJECTS):
        parser.error(f"--small-steps is at least 0, --views-per-batch at most {len(SUBJECTS)}")
    if arguments.scenes_per_batch > arguments.scenes:
        parser.error("--scenes-per-batch is at most --scenes")
    return arguments


def main(words: Sequence[str]) -> int:
    """Run the command; its exit code."""
    arguments = parse_arguments(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    folder, device = arguments.output, arguments.device
    try:
        if not arguments.measure_only:
            train(folder, recipe, device, arguments.workers)
        measured = measure_and_describe(folder, arguments.views, arguments.held_out_scenes, device)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    print(report(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
