"""Building of CLIP models with published weights, weights from a file, or random ones."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg
from torch import Tensor

from ita.errors import UserError
from ita.files import find_file
from ita.modeling.clip import FrozenCLIP
from ita.modeling.clip_files import find_weights
from ita.modeling.clip_state import (
    assign_state,
    differences,
    has_values,
    in_layout_of,
    is_torchscript,
    read_state,
)
from ita.modeling.clip_tokens import ROWS, WarningTokenizer, complete_token_table
from ita.modeling.image_towers import image_tower
from ita.structured_files import parse_json

logger = logging.getLogger(__name__)

RANDOM = "random"
# Checkpoints do not contain a random CLIP, so it must be reproducible.
RANDOM_SEED = 0
# Name of the model config that is published with weights.
CONFIG_FILE = "open_clip_config.json"
# Settings of the image transform that weights were trained with.
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


def build_clip(model_name: str, weights: str) -> FrozenCLIP:
    """Build a CLIP and load its weights.

    Args:
        model_name: an open_clip model name, or the path of an open_clip model config in JSON.
        weights: an open_clip tag, a file, a folder (:func:`ita.modeling.clip_files.find_weights`),
            or ``"random"``.

    Paths are resolved by :func:`ita.files.find_file`. The image tower and the names and shapes in
    the file are checked first, on a model without data. A file may contain only the used rows of
    the token table (see ``clip_tokens``); words with other tokens are then logged as warnings.
    Tensors in float32 are mapped from the file, not read (:func:`read_state`): those not used, such
    as the text tower's if text features are cached, take no memory.

    Raises:
        UserError: the model or tag is unknown, its image tower is not supported, or the weights are
            not found and cannot be downloaded, or do not fit the model.
    """
    published = _published_config(model_name)
    config = published.get("model_cfg") or published
    empty = _build_empty(config, model_name)
    image_tower(empty.visual.eval())
    path = None if weights == RANDOM else find_weights(model_name, weights)
    settings = _training_settings(model_name, weights, path, published)
    if settings.get("quick_gelu") and not config.get("quick_gelu"):
        config["quick_gelu"] = True
        empty = _build_empty(config, model_name)
    tokenizer = _tokenizer(model_name, config)
    if path is None:
        logger.warning("CLIP %s has random weights; its features carry no meaning", model_name)
        clip = _build_random(config, model_name)
    else:
        if "quick_gelu" not in settings and f"{model_name}-quickgelu" in open_clip.list_models():
            message = "CLIP %s uses GELU; if %s is from OpenAI, use the model name %s-quickgelu"
            logger.warning(message, model_name, path, model_name)
        state, rows = _fitting_state(empty, path, model_name)
        clip = _with_weights(empty, state, config, model_name)
        if rows is not None:
            tokenizer = WarningTokenizer(tokenizer, rows, weights)
    set_model_preprocess_cfg(clip, _preprocessing(settings, clip.visual.image_size))
    return FrozenCLIP(clip, tokenizer)


def _published_config(model_name: str) -> dict[str, Any]:
    """Return open_clip's model config, possibly under ``model_cfg``, by name or JSON file."""
    path = Path(model_name)
    if path.suffix != ".json":
        config = open_clip.get_model_config(model_name)
        if config is None:
            raise UserError(
                f"unknown open_clip model {model_name!r}; give a name such as "
                "convnext_large_d_320 or RN50, or a model config file (.json)"
            )
        return config
    path = find_file(path)
    if not path.is_file():
        raise UserError(f"CLIP model config not found: {model_name}")
    return _read_config(path)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read CLIP model config {path}: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"CLIP model config {path} is not a JSON object")
    for key in ("model_cfg", "preprocess_cfg"):
        if not isinstance(config.get(key) or {}, dict):
            raise UserError(f"{key} in CLIP model config {path} is not a JSON object")
    return config


def _build(model_config: Mapping[str, Any], model_name: str) -> Any:
    config: dict[str, Any] = deepcopy(dict(model_config))
    custom_text = config.pop("custom_text", False)
    try:
        if "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_model_pretrained"] = False
        return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config)
    except Exception as error:  # open_clip and timm check values by assertions and look-ups
        raise UserError(f"cannot build CLIP {model_name}: {_reason(error)}") from error


def _build_empty(model_config: Mapping[str, Any], model_name: str) -> Any:
    """Build a model whose tensors have shapes and types but no values."""
    with torch.device("meta"):
        return _build(model_config, model_name)


def _build_random(model_config: Mapping[str, Any], model_name: str) -> Any:
    """Build a model with open_clip's random initialization, the same every time."""
    # A fork, so that building CLIP neither depends on nor changes the job's random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return _build(model_config, model_name)


def _with_weights(
    empty: Any, state: dict[str, Tensor], config: Mapping[str, Any], model_name: str
) -> Any:
    """Return a model with the tensors of a fitting state dict as its weights."""
    assign_state(empty, state)
    if has_values(empty):
        return empty
    # Some timm and Hugging Face models compute buffers that no file contains.
    clip = _build_random(config, model_name)
    clip.load_state_dict(empty.state_dict(), assign=True)
    return clip


def _training_settings(
    model_name: str, weights: str, path: Path | None, published: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the weights were trained with: ``PREPROCESSING`` and ``quick_gelu``, if known.

    The sources, best first: the tag, the format of the file, the config beside the file, the model
    config, and the model's tags as far as they agree.
    """
    tag_config = open_clip.get_pretrained_cfg(model_name, weights)
    if tag_config:
        return tag_config
    settings = _shared_by_tags(model_name) | (published.get("preprocess_cfg") or {})
    if path is not None and (path.parent / CONFIG_FILE).is_file():
        beside = _read_config(path.parent / CONFIG_FILE)
        settings |= beside.get("preprocess_cfg") or {}
        settings["quick_gelu"] = (beside.get("model_cfg") or beside).get("quick_gelu", False)
    elif path is not None and is_torchscript(path):
        settings["quick_gelu"] = True
    return settings


def _shared_by_tags(model_name: str) -> dict[str, Any]:
    """Return the preprocessing of a model's tags if all have the same."""
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    configs = [open_clip.get_pretrained_cfg(model_name, tag) for tag in tags]
    each = [{key: config[key] for key in PREPROCESSING} for config in configs]
    return each[0] if each and all(one == each[0] for one in each) else {}


def _preprocessing(settings: Mapping[str, Any], image_size: Any) -> dict[str, Any]:
    known = {k: settings[k] for k in PREPROCESSING if settings.get(k) is not None}
    for key in ("mean", "std"):
        if key in known and not _is_color(known[key]):
            raise UserError(f"{key} of CLIP's preprocess_cfg is {known[key]!r}, not three numbers")
    return asdict(PreprocessCfg(size=image_size, **known))


def _is_color(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
    return numbers and len(value) == 3


def _tokenizer(model_name: str, config: Mapping[str, Any]) -> Any:
    context_length = config["text_cfg"].get("context_length", 77)
    if Path(model_name).suffix == ".json":
        # With the tokenizer that open_clip creates on import; reading another takes time.
        return partial(open_clip.tokenize, context_length=context_length)
    return open_clip.get_tokenizer(model_name, context_length=context_length)


def _fitting_state(
    empty: Any, path: Path, model_name: str
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Read a file whose tensors have the names and shapes of a model without data.

    Returns:
        The state dict; and the token ids if the file contains only some rows of the token table.
    """
    logger.info("loading CLIP %s from %s", model_name, path)
    rows = None
    try:
        raw = read_state(path)
        state = in_layout_of(empty, raw)
        if ROWS in state:
            rows = complete_token_table(state, empty.token_embedding.weight.shape)
        problem = differences(empty, state)
    except Exception as error:  # damaged files raise almost any exception
        raise UserError(
            f"{path} does not contain the weights of CLIP {model_name}: {_reason(error)}"
        ) from error
    if problem:
        others = " or ".join(_models_of(raw))
        but = f" but of {others}" if others else ""
        raise UserError(f"{path} does not contain the weights of CLIP {model_name}{but}: {problem}")
    return state, rows


def _models_of(state: Mapping[str, Any]) -> list[str]:
    """Return open_clip's models with the names and shapes of a state dict."""
    custom_text = "text.text_projection" in state
    projection = state.get("text.text_projection" if custom_text else "text_projection")
    if not isinstance(projection, Tensor):
        return []
    is_timm = any(name.startswith("visual.trunk.") for name in state)
    configs = {
        name: open_clip.get_model_config(name)
        for name in open_clip.list_models()
        if not name.endswith("-quickgelu")
    }
    # Building all models takes half a minute, even without data.
    return [
        name
        for name, config in configs.items()
        if [config["text_cfg"].get("width"), config["embed_dim"]] == list(projection.shape)
        and config.get("custom_text", False) == custom_text
        and ("timm_model_name" in config["vision_cfg"]) == is_timm
        and _describes(config, name, state)
    ]


def _describes(config: Mapping[str, Any], name: str, state: Mapping[str, Any]) -> bool:
    try:
        empty = _build_empty(config, name)
    except UserError:  # some models need more packages
        return False
    return not differences(empty, in_layout_of(empty, state))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(": ")
