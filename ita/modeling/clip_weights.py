"""Loading of CLIP models: open_clip names and tags, local files and folders, or random weights."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from detectron2.utils import comm
from open_clip.factory import load_checkpoint, load_state_dict
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from ita.errors import UserError
from ita.files import PACKAGE, find_file
from ita.modeling.clip import FrozenCLIP
from ita.modeling.clip_tokens import WarningTokenizer, complete_token_table, has_few_tokens

logger = logging.getLogger(__name__)

RANDOM = "random"
# Checkpoints do not contain a random CLIP, so it must be reproducible.
RANDOM_SEED = 0
# File names of published open_clip weights, in order of preference.
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# Parent folders searched for the weights folder of an open_clip tag.
SEARCH_ROOTS = (Path(), PACKAGE.parent)


def build_clip(model_name: str, weights: str) -> FrozenCLIP:
    """Build a CLIP and load its weights.

    Args:
        model_name: an open_clip model name, or the path of an open_clip model config in JSON.
        weights: an open_clip tag, a file, a folder with one weights file, or ``"random"``.

    Paths are resolved by :func:`ita.files.find_file`. A file may contain only the used rows of the
    token table (see ``clip_tokens``); words with other tokens are then logged as warnings.

    Raises:
        UserError: the model or tag is unknown, or the weights are not found and cannot be
            downloaded, or do not fit the model.
    """
    config = _model_config(model_name)
    tag_config = open_clip.get_pretrained_cfg(model_name, weights) or {}
    path = None if weights == RANDOM else find_weights(model_name, weights)
    # OpenAI's models were trained with QuickGELU, which open_clip's plain names do not select.
    if tag_config.get("quick_gelu") or (path and _is_torchscript(path)):
        config["quick_gelu"] = True
    # A fork, so that building CLIP neither depends on nor changes the job's random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        clip = _build(config, model_name)
    set_model_preprocess_cfg(clip, _preprocess(tag_config, clip.visual.image_size))
    context_length = config["text_cfg"].get("context_length", 77)
    if Path(model_name).suffix == ".json":
        tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
    else:
        tokenizer = open_clip.get_tokenizer(model_name, context_length=context_length)
    if path is None:
        logger.warning("CLIP %s has random weights; its features carry no meaning", model_name)
    elif (rows := _load(clip, path, model_name)) is not None:
        tokenizer = WarningTokenizer(tokenizer, rows, weights)
    return FrozenCLIP(clip, tokenizer)


def find_weights(model_name: str, weights: str) -> Path:
    """Return the weights file that ``weights`` selects, downloaded if necessary.

    One process of the job downloads into open_clip's cache, then one per machine that does not
    share that cache; the others find the file there.

    Raises:
        UserError: the weights are not found and cannot be downloaded; the message names the file
            and folder to provide.
    """
    path = find_file(weights)
    if path.is_file():
        return path
    if path.is_dir():
        return _file_in_folder(path)
    tag_config = open_clip.get_pretrained_cfg(model_name, weights)
    if not tag_config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model_name)) or "none"
        raise UserError(
            f"CLIP weights {weights!r} are not a file, a folder or an open_clip tag of "
            f"{model_name} (its tags: {tags})"
        )
    found = _file_in_hub_folder(tag_config)
    # Processes that found a file synchronize too, as other machines may lack it.
    for may_download in (comm.is_main_process(), comm.get_local_rank() == 0, True):
        if may_download and found is None:
            found = _download(model_name, weights, tag_config)
        comm.synchronize()
    assert found is not None
    return found


def hub_folder(tag_config: Mapping[str, Any]) -> str:
    """Return the name of the folder that is searched for a tag's weights.

    It is the Hugging Face id without the slash, as in the paper's README:
    ``laionCLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup``.
    """
    return tag_config.get("hf_hub", "").replace("/", "")


def _file_in_hub_folder(tag_config: Mapping[str, Any]) -> Path | None:
    folder_name = hub_folder(tag_config)
    for root in SEARCH_ROOTS:
        folder = root / folder_name
        if folder_name and any((folder / name).is_file() for name in WEIGHT_FILES):
            return _file_in_folder(folder)
    return None


def _download(model_name: str, tag: str, tag_config: dict[str, Any]) -> Path:
    try:
        with _quiet_hub():
            return Path(open_clip.download_pretrained(tag_config))
    except Exception as error:  # network failures raise almost any exception
        source = tag_config.get("hf_hub", "").rstrip("/") or tag_config.get("url")
        raise UserError(
            f"CLIP weights {tag} of {model_name} were not found and cannot be downloaded "
            f"({type(error).__name__}): put {WEIGHT_FILES[1]} of {source} into the folder "
            f"{hub_folder(tag_config)}, or pass the path of a weights file"
        ) from error


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Suppress the hub client's log of its retries; only the final error is reported."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)


def _file_in_folder(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(f for f in folder.iterdir() if f.suffix in WEIGHT_SUFFIXES)
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise UserError(
            f"folder {folder} must contain one file of CLIP weights ({' or '.join(WEIGHT_FILES)}); "
            f"found {found}: give the path of the file"
        )
    return files[0]


def _model_config(model_name: str) -> dict[str, Any]:
    """Return open_clip's model config by name or from a JSON file (bare or under ``model_cfg``)."""
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
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read CLIP model config {path}: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"CLIP model config {path} is not a JSON object")
    return config.get("model_cfg", config)


def _build(model_config: Mapping[str, Any], model_name: str) -> Any:
    config: dict[str, Any] = deepcopy(dict(model_config))
    custom_text = config.pop("custom_text", False)
    try:
        if "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_model_pretrained"] = False
        return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot build CLIP {model_name}: {_reason(error)}") from error


def _preprocess(tag_config: Mapping[str, Any], image_size: Any) -> dict[str, Any]:
    keys = ("mean", "std", "interpolation", "resize_mode")
    known = {k: tag_config[k] for k in keys if k in tag_config}
    return asdict(PreprocessCfg(size=image_size, **known))


def _is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, like OpenAI's original CLIP files."""
    if path.suffix == ".safetensors":
        return False
    try:
        reader = torch.PyTorchFileReader(str(path))
    except RuntimeError:  # not a zip archive; loading the file reports the problem
        return False
    return "constants.pkl" in reader.get_all_records()


def _load(clip: nn.Module, path: Path, model_name: str) -> Tensor | None:
    """Load a file; return its token ids if it contains only some rows of the token table."""
    logger.info("loading CLIP %s from %s", model_name, path)
    try:
        return _load_unchecked(clip, path)
    except Exception as error:  # damaged files raise almost any exception
        raise UserError(
            f"{path} does not contain the weights of CLIP {model_name}: {_reason(error)}"
        ) from error


def _load_unchecked(clip: Any, path: Path) -> Tensor | None:
    rows = None
    if has_few_tokens(path):
        state = load_state_dict(str(path))
        rows = complete_token_table(state, clip.token_embedding.weight.shape)
        clip.load_state_dict(state)
    elif _is_torchscript(path):
        state = torch.jit.load(str(path), map_location="cpu").state_dict()
        for key in ("input_resolution", "context_length", "vocab_size"):
            state.pop(key, None)
        clip.load_state_dict(state)
    else:
        load_checkpoint(clip, str(path), weights_only=True)
    return rows


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(": ")
