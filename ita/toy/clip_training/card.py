"""The card of the toy world's CLIP: what it is, where it comes from, what it can do."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ita.errors import UserError
from ita.files import write_atomically
from ita.modeling.vocabulary import PROMPTS
from ita.toy.captions import SUBJECTS
from ita.toy.clip_training.measuring import Measured, markdown_table
from ita.toy.clip_training.training import SCENE_INPUT, Recipe
from ita.toy.names import (
    COATS,
    DISTRACTOR_STUFF,
    DISTRACTOR_THINGS,
    GROUNDS,
    OTHER_COATS,
    OTHER_GROUNDS,
    OTHER_SHAPES,
    SHAPES,
    STUFF,
    THINGS,
)

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
CARD = "README.md"
TRAINING = "training.json"


@dataclass(frozen=True)
class Training:
    """How weights were made; kept beside them as ``training.json``.

    Attributes:
        recipe: as given.
        command: that makes the weights again.
        seconds: that it took, without measuring.
        hardware: on what, in a few words.
        tokens: rows of the token table.
        sha256: of the weights file.
    """

    recipe: Recipe
    command: str
    seconds: int
    hardware: str
    tokens: int
    sha256: str


def write_training(folder: Path, training: Training) -> None:
    """Write ``training.json``."""
    text = json.dumps(asdict(training), indent=2) + "\n"
    write_atomically(folder / TRAINING, text.encode())


def read_training(folder: Path) -> Training:
    """Read ``training.json``.

    Raises:
        UserError: it or the weights cannot be read, or it tells of other weights.
    """
    path = folder / TRAINING
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        training = Training(**content | {"recipe": Recipe(**content["recipe"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot read {path}, which says how the weights were made") from error
    if training.sha256 != sha256_of(folder / WEIGHTS):
        raise UserError(f"{path} tells of other weights than {folder / WEIGHTS}: train again")
    return training


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The model config of a folder.

    Raises:
        UserError: there is none, or it is no such thing.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no open_clip model config: copy that of ita/toy/clip") from (
            error
        )
    return config


def write_card(folder: Path, measured: Measured) -> None:
    """Write ``README.md``."""
    training, config = read_training(folder), read_config(folder)
    text = _CARD.format(
        measures=_measures(measured),
        words=_words(),
        subjects=len(SUBJECTS),
        world=len(THINGS + STUFF),
        others=len(DISTRACTOR_THINGS + DISTRACTOR_STUFF),
        portraits=f"{training.recipe.portraits:,}",
        scenes=f"{training.recipe.scenes:,}",
        views_per_batch=training.recipe.views_per_batch,
        scenes_per_batch=training.recipe.scenes_per_batch,
        scene_input=SCENE_INPUT,
        steps=f"{training.recipe.steps:,}",
        small_steps=f"{training.recipe.small_steps:,}",
        command=training.command,
        seconds=f"{training.seconds:,}",
        hardware=training.hardware,
        tokens=training.tokens,
        megabytes=f"{(folder / WEIGHTS).stat().st_size / 1e6:.1f}",
        sha256=training.sha256,
        timm=config["vision_cfg"]["timm_model_name"],
        size=config["vision_cfg"]["image_size"],
        **{key: config["text_cfg"][key] for key in ("layers", "width", "heads", "context_length")},
        embed_dim=config["embed_dim"],
    )
    write_atomically(folder / CARD, text.encode())


def report(measured: Measured) -> str:
    """What was measured, for the terminal."""
    return f"{markdown_table(measured.accuracy)}\n\n{markdown_table(measured.found)}"


def _measures(measured: Measured) -> str:
    return f"""\
On scenes of another seed: {measured.views} views of each class, and the regions of
{measured.scenes} whole scenes. Every name is the mean of the {len(PROMPTS)} prompts.

Accuracy in percent. Views are told apart by the image encoder; regions by the mean of the dense
feature under their true mask, in scenes enlarged as for segmentation
({measured.regions_without_cell:.1f} % of them are too small for a cell of that feature).

{markdown_table(measured.accuracy)}

How many percent of the classes in a whole scene are among the K names nearest to its embedding:

{markdown_table(measured.found)}"""


def _words() -> str:
    """Every word with its synonym, a line for each kind."""
    kinds = {
        "coats": COATS | OTHER_COATS,
        "shapes": SHAPES | OTHER_SHAPES,
        "grounds": GROUNDS | OTHER_GROUNDS,
    }
    return "\n".join(
        f"- {kind}: {', '.join(f'{word} ({other})' for word, other in words.items())}"
        for kind, words in kinds.items()
    )


_CARD = """\
# The CLIP of the toy world

An open_clip model that was trained on drawn images alone and knows the words of the toy world, so
that open-vocabulary segmentation can be tried out in minutes. It knows nothing of real images.

- `open_clip_config.json`: timm's `{timm}` at {size} px, a text transformer of {layers} layers,
  width {width}, {heads} heads and {context_length} tokens; {embed_dim} dimensions in common.
- `open_clip_model.safetensors`: its weights in float32, {megabytes} MB. Of the token table it holds
  the {tokens} rows in use; the others are zero.
  SHA-256 `{sha256}`.
- `training.json`: how these weights were made.

## Use

    MODEL.FC_CLIP.CLIP_MODEL_NAME ita/toy/clip/open_clip_config.json
    MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS ita/toy/clip

## Training

    {command}

{steps} steps in {seconds} s on {hardware}. The images are portraits of each class of objects
({portraits}) and scenes of several objects ({scenes}). In the first {small_steps} steps a batch
holds a view, at half the size, of each of the {subjects} classes ({world} of the data sets,
{others} that no data set shows); then views of {views_per_batch} of them and {scenes_per_batch}
scenes at {scene_input} px, which are looked at as a whole and through a window around each thing
and ground. The windows of a scene share a pass: each is the mean of the last feature over it, as a
whole image is the mean over all of it. Captions name the class, one time in four by its synonym, in
the wording of the prompts and some others; those of whole scenes name several. A caption counts
as true of every scene that shows all it names, so a whole scene is near to the names of what is in
it. Masks choose where views and windows lie; the loss sees none.

This CLIP has seen every pair of words, as one trained on the web would: "seen" and "unseen" are
what segmentation trains on.

## What it can do

{measures}

## What it cannot

It knows these words, each with its synonym, and those of the prompts. Others are warned of, and
what it says about them means nothing.

{words}
"""
