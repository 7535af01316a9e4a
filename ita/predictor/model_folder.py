"""A model as a folder: config, trained weights, training class list and card."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from ita.classes import ClassList, format_class_list
from ita.config import add_ita_config, flatten
from ita.engine.checkpoint import CLASSES, export_weights, trained_content
from ita.errors import UserError
from ita.files import PACKAGE, find_file, folder_written_whole, write_atomically
from ita.meta_arch import ITA
from ita.modeling.storage import write_tensors

CONFIG_NAME, WEIGHTS_NAME = "config.yaml", "model.safetensors"
CLASSES_NAME, CARD_NAME = "classes.txt", "README.md"
NAME_TABLE = "name_table.safetensors"
MODEL_FILES = (CONFIG_NAME, WEIGHTS_NAME, CLASSES_NAME, CARD_NAME, NAME_TABLE)

# Keys that belong to a model rather than to a run of it.
_MODEL_KEYS = ("MODEL.", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE")
_MACHINE_KEYS = ("MODEL.DEVICE", "MODEL.WEIGHTS")
_NAME_TABLE_KEY = "MODEL.ITA.NAME_TABLE"
_CLIP_KEYS = ("MODEL.FC_CLIP.CLIP_MODEL_NAME", "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS")


def save_model(model: ITA, cfg: CfgNode, folder: str | Path) -> None:
    """Write a model to a folder, atomically.

    CLIP's weights are not copied: the config names them. A class list that is named by its path
    keeps the file's name only.

    Args:
        model: the network.
        cfg: its config.
        folder: a new or empty folder, or one of an earlier model, which is replaced.

    Raises:
        UserError: the folder has other content, or cannot be written.
    """
    path = Path(os.path.realpath(os.path.expanduser(folder)))
    _check_replaceable(path)
    class_list = replace(model.train_class_list, name=Path(model.train_class_list.name).name)
    settings = _portable_settings(cfg)
    with folder_written_whole(path, replace=True) as partial:
        if model.name_table:
            write_tensors(partial / NAME_TABLE, model.name_table)
            settings[_NAME_TABLE_KEY] = NAME_TABLE
        content = {**trained_content(model), CLASSES: class_list.to_dict()}
        export_weights(content, partial / WEIGHTS_NAME)
        texts = {
            CONFIG_NAME: _to_yaml(settings),
            CLASSES_NAME: format_class_list(class_list),
            CARD_NAME: _card(content["model"], class_list, settings),
        }
        for name, text in texts.items():
            write_atomically(partial / name, text.encode())


def model_files(folder: Path, weights: str | Path) -> tuple[Path, Path]:
    """Return the paths of the config and the weights of a model folder.

    Args:
        folder: the folder.
        weights: a checkpoint to use instead of the folder's; "" for none.

    Raises:
        UserError: one of them is missing.
    """
    config, weights = folder / CONFIG_NAME, Path(weights or folder / WEIGHTS_NAME)
    for path in (config, weights):
        if path.parent == folder and not path.is_file():
            raise UserError(
                f"{folder} has no {path.name}; a model folder, as model.save writes it, has "
                f"{CONFIG_NAME} and {WEIGHTS_NAME}"
            )
    return config, weights


def locate_own_files(cfg: CfgNode, folder: Path) -> None:
    """Replace the names of a model folder's own files in its config by paths, in place."""
    if cfg.MODEL.ITA.NAME_TABLE == NAME_TABLE:
        cfg.MODEL.ITA.NAME_TABLE = str(folder / NAME_TABLE)


def local_clip_files(cfg: CfgNode) -> list[str]:
    """List the files of CLIP that the config names and that are on this machine only."""
    settings = _portable_settings(cfg)
    return [settings[key] for key in _CLIP_KEYS if os.path.isabs(settings.get(key, ""))]


def _check_replaceable(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise UserError(f"{path} is a file; choose a folder for the model")
    names = {entry.name for entry in os.scandir(path)}
    if others := sorted(names - set(MODEL_FILES)):
        raise UserError(f"{path} has other content ({others[0]}); choose a folder for the model")
    if names and not {CONFIG_NAME, WEIGHTS_NAME} <= names:
        raise UserError(f"{path} is neither empty nor a model; choose a folder for the model")


def _portable_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the settings of a trained model that differ from the defaults, by dotted key."""
    default = get_cfg()
    add_ita_config(default)
    defaults = dict(flatten(default))
    settings = {
        key: value
        for key, value in flatten(cfg)
        if key.startswith(_MODEL_KEYS) and key not in _MACHINE_KEYS and defaults[key] != value
    }
    # Named, though never looked up, since the weights contain its class list.
    settings["DATASETS.TRAIN"] = cfg.DATASETS.TRAIN
    return settings | {key: _portable(key, settings[key]) for key in _CLIP_KEYS if key in settings}


def _portable(key: str, name: str) -> str:
    """Name a file of the package independently of the machine, any other by its full path."""
    path = find_file(name)
    is_model_name = key == _CLIP_KEYS[0] and path.suffix != ".json"
    if is_model_name or not os.path.exists(path):
        return name
    path = path.resolve()
    if path.is_relative_to(PACKAGE):
        return (Path("ita") / path.relative_to(PACKAGE)).as_posix()
    return str(path)


def _to_yaml(settings: dict[str, Any]) -> str:
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, name = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return yaml.safe_dump(nested)


def _card(weights: dict[str, Any], class_list: ClassList, settings: dict[str, Any]) -> str:
    clip = [str(settings[key]) for key in _CLIP_KEYS if key in settings]
    return _CARD.format(
        parameters=f"{sum(tensor.numel() for tensor in weights.values()):,}",
        classes=len(class_list),
        clip=f" ({', '.join(clip)})" if clip else "",
        table=f"- `{NAME_TABLE}`: features that replace those of names as queries.\n"
        if _NAME_TABLE_KEY in settings
        else "",
    )


_CARD = """\
---
library_name: ita
pipeline_tag: image-segmentation
tags:
- open-vocabulary
- semantic-segmentation
---
# An ITA model

Image-Text Aggregation for open-vocabulary segmentation: it segments images into classes given as
words.

    import ita

    model = ita.load("this folder, or its Hugging Face name")
    result = model.segment("photo.jpg", ["cat, kitten", "sofa", "wall"])

- `config.yaml`: sizes of the model and settings of inference.
- `model.safetensors`: {parameters} parameters, and the training class list.
- `classes.txt`: the {classes} classes of training, which are the seen ones.
{table}
The weights of the frozen CLIP are not part of the folder; the config names them{clip}.
"""
