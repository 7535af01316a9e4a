"""Model card of the toy CLIP: contents, training and accuracy."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ita.errors import UserError
from ita.files import PACKAGE, sha256_of, write_atomically
from ita.modeling.vocabulary import PROMPTS
from ita.structured_files import parse_json
from ita.toy.captions import ALL_THINGS, MAX_NAMED, SUBJECTS
from ita.toy.clip_training.measuring import Measured, markdown_table
from ita.toy.clip_training.training import LARGE_SCENE, SCENE_INPUT, SMALL_SCENE, Recipe
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
from ita.toy.scenes import MAX_OBJECTS

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
CARD = "README.md"
TRAINING = "training.json"


@dataclass(frozen=True)
class Training:
    """Training record of the weights, stored next to them as ``training.json``.

    Attributes:
        recipe: training recipe.
        command: command that reproduces the weights.
        seconds: training time, without measuring.
        hardware: short description of the hardware.
        tokens: number of stored rows of the token embedding.
        sha256: hash of the weights file.
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
        UserError: it or the weights cannot be read, or they do not match.
    """
    path = folder / TRAINING
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        training = Training(**content | {"recipe": Recipe(**content["recipe"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot read {path}, the training record of the weights") from error
    if training.sha256 != sha256_of(folder / WEIGHTS):
        raise UserError(f"{path} describes other weights than {folder / WEIGHTS}; train again")
    return training


def read_config(folder: Path) -> dict[str, Any]:
    """Read the model config of a folder.

    Raises:
        UserError: the config is missing or invalid.
    """
    path = folder / CONFIG
    try:
        config = parse_json(path.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not an open_clip model config; copy the one in ita/toy/clip"
        ) from error
    return config


def write_card(folder: Path, measured: Measured) -> None:
    """Write ``README.md``."""
    training, config = read_training(folder), read_config(folder)
    text = _CARD.format(
        title=_TITLES[training.recipe.whole_scenes],
        folder=_shown(folder),
        images=_images(training.recipe),
        measures=_measures(measured),
        words=_words(),
        steps=f"{training.recipe.steps:,}",
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
    """Format the measurements for the terminal."""
    tables = (measured.accuracy, measured.found, measured.retrieved)
    return "\n\n".join(markdown_table(table) for table in tables)


def _measures(measured: Measured) -> str:
    return f"""\
Measured on held-out scenes: {measured.views} views of each class, and the regions of
{measured.scenes} whole scenes. Every name is encoded as the mean of the {len(PROMPTS)} prompts.

Accuracy in percent. Views are classified by the image encoder; regions by the mean of the dense
feature under their ground-truth mask, in scenes enlarged as for segmentation
({measured.regions_without_cell:.1f} % of them are too small for a cell of that feature).

{markdown_table(measured.accuracy)}

Percentage of the classes in a whole scene that are among the K names nearest to its embedding:

{markdown_table(measured.found)}

Percentage of whole scenes whose caption, which names up to {MAX_NAMED} of their classes, is found
among those of all {measured.scenes} scenes, and of captions whose scene is found:

{markdown_table(measured.retrieved)}"""


def _words() -> str:
    """Every word with its synonym, one line per kind."""
    kinds = {
        "coats": COATS | OTHER_COATS,
        "shapes": SHAPES | OTHER_SHAPES,
        "grounds": GROUNDS | OTHER_GROUNDS,
    }
    return "\n".join(
        f"- {kind}: {', '.join(f'{word} ({other})' for word, other in words.items())}"
        for kind, words in kinds.items()
    )


def _images(recipe: Recipe) -> str:
    """Images and captions of the training."""
    pattern = _WHOLE_SCENES if recipe.whole_scenes else _VIEWS
    return pattern.format(
        subjects=len(SUBJECTS),
        world=len(THINGS + STUFF),
        others=len(DISTRACTOR_THINGS + DISTRACTOR_STUFF),
        portraits=f"{recipe.portraits:,}",
        scenes=f"{recipe.scenes:,}",
        views_per_batch=recipe.views_per_batch,
        scenes_per_batch=recipe.scenes_per_batch,
        scene_input=SCENE_INPUT,
        small_steps=f"{recipe.small_steps:,}",
        max_named=MAX_NAMED,
        max_objects=MAX_OBJECTS,
        small_scene=SMALL_SCENE,
        large_scene=LARGE_SCENE,
        things=len(ALL_THINGS),
    )


def _shown(folder: Path) -> str:
    """Path of a folder from the checkout, if it is in the package."""
    resolved = folder.resolve()
    inside = resolved.is_relative_to(PACKAGE)
    return resolved.relative_to(PACKAGE.parent).as_posix() if inside else str(folder)


# By Recipe.whole_scenes.
_TITLES = {False: "The CLIP of the toy world", True: "A CLIP of whole scenes of the toy world"}

_VIEWS = """\
The images are portraits of each class of objects
({portraits}) and scenes of several objects ({scenes}). In the first {small_steps} steps a batch
contains a view, at half the size, of each of the {subjects} classes ({world} of the data sets,
{others} that no data set shows); afterwards, views of {views_per_batch} of them and
{scenes_per_batch} scenes at {scene_input} px, which are encoded as a whole and in a window around
each thing and ground. The windows of a scene share a forward pass: each is embedded as the mean of
the last feature over it, just as a whole image is embedded as the mean over all of it. Captions
name the class, one time in four by its synonym, in the wording of the prompts and some others;
captions of whole scenes name several classes. A caption counts as correct for every scene that
shows all classes it names, so the embedding of a whole scene is close to the names of its classes.
Masks determine the location of views and windows; the loss does not use them."""

_WHOLE_SCENES = """\
The images are whole scenes of one object
({portraits} for each of {things} classes) and of up to {max_objects} objects ({scenes}); nothing
tells where a class is. In the first {small_steps} steps a batch contains a scene at
{small_scene} px of each single object, afterwards {views_per_batch} of them and {scenes_per_batch}
scenes of several objects at {large_scene} px. A caption names some of the classes of its scene,
objects or grounds, at most {max_named}, each one time in four by its synonym; one name alone is in
the wording of the prompts and some others. A caption counts as correct for every scene that shows
all classes it names."""

_CARD = """\
# {title}

An open_clip model that was trained only on drawn images, with the words of the toy world, so that
open-vocabulary segmentation can be tried out in minutes. It does not work on real images.

- `open_clip_config.json`: timm's `{timm}` at {size} px, a text transformer with {layers} layers,
  width {width}, {heads} heads and {context_length} tokens; {embed_dim} joint embedding dimensions.
- `open_clip_model.safetensors`: the weights in float32, {megabytes} MB. Of the token embedding, it
  stores the {tokens} rows in use; the others are zero.
  SHA-256 `{sha256}`.
- `training.json`: the training recipe and record of these weights.

## Use

    MODEL.FC_CLIP.CLIP_MODEL_NAME {folder}/open_clip_config.json
    MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS {folder}

## Training

    {command}

{steps} steps in {seconds} s on {hardware}. {images}

This CLIP has seen every pair of words, as one trained on the web would: "seen" and "unseen" refer
to the training of segmentation.

## Results

{measures}

## Limitations

It knows these words, each with its synonym, and the words of the prompts. Other words trigger a
warning, and their embeddings are meaningless.

{words}
"""
