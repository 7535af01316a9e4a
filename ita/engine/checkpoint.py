"""Files of checkpoints: reading, checking, converting and writing them."""

import logging
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ita.classes import ClassList
from ita.errors import UserError, WriteError
from ita.files import find_file, written_whole
from ita.modeling.conversion import (
    EMPTY_WEIGHT,
    ITA,
    Conversion,
    architecture_of,
    convert,
    convert_state_dict,
    shape_text,
)
from ita.modeling.storage import (
    SAFETENSORS,
    nonfinite_names,
    read_metadata,
    read_tensors,
    reason,
    write_tensors,
)
from ita.shortages import Shortage, shortage_of

logger = logging.getLogger(__name__)

# Keys under which training programs store the weights in a checkpoint.
WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict")
# Maximum number of tensor names in a message.
MAX_LISTED = 6
# File with the name of the newest checkpoint in its folder, as in Detectron2.
LAST_CHECKPOINT = "last_checkpoint"
# Checkpoint key of the training class list.
CLASSES = "train_classes"
# Checkpoint key of the metric and value that a checkpoint was selected by.
SELECTION = "selected_by"


def trained_content(model: nn.Module) -> dict[str, Any]:
    """Return the trained weights with their class list, as :func:`export_weights` takes them."""
    frozen = _frozen_keys(model)
    content = {"model": {k: v for k, v in model.state_dict().items() if k not in frozen}}
    if (class_list := getattr(model, "train_class_list", None)) is not None:
        content[CLASSES] = class_list.to_dict()
    return content


def local_path(path: str) -> Path:
    """Return the local path of a file, downloading it if ``path`` is a URL.

    Raises:
        UserError: the download fails.
    """
    if (found := find_file(path)).exists():
        return found
    try:
        return Path(PathManager.get_local_path(path))
    except Exception as error:  # every path handler raises its own types
        raise UserError(f"cannot download checkpoint {path}: {reason(error)}") from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str) -> None:
    """Load weights by name, with the names of this model or of its predecessors.

    Args:
        model: its tensors that are missing from the weights, except CLIP's, are listed in a
            warning.
        weights: from :func:`read_checkpoint`.
        path: path of the file, for messages.

    Raises:
        UserError: weights have other shapes or are not finite, or none belongs to this model.
    """
    weights = convert_state_dict(weights)
    model_weights = model.state_dict()
    _check_shapes(weights, model_weights, path)
    check_finite({name: weights[name] for name in weights if name in model_weights}, path)
    trained = model_weights.keys() - _frozen_keys(model)
    if trained and trained.isdisjoint(weights):
        raise UserError(
            f"{path} has no weights of this model; its tensors are {_join_names(weights)}"
        )
    model.load_state_dict(weights, strict=False)
    if missing := trained - weights.keys():
        logger.warning(
            "%s is missing %d of the model's tensors, which keep their initial values: %s",
            path,
            len(missing),
            _join_names(missing),
        )
    if unexpected := weights.keys() - model_weights.keys():
        logger.warning(
            "%s has %d tensors that are not in the model: %s",
            path,
            len(unexpected),
            _join_names(unexpected),
        )
    if differing := _differing_keys(weights, model_weights):
        logger.warning("%s is from a model with %s; set this in the config", path, differing)


def trained_class_list(checkpoint: Mapping[str, Any], path: str) -> ClassList | None:
    """Return the training class list of a checkpoint; None for checkpoints of other programs.

    Raises:
        UserError: the stored value is not a class list.
    """
    if CLASSES not in checkpoint:
        return None
    try:
        return ClassList.from_dict(checkpoint[CLASSES])
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error


def convert_checkpoint(
    checkpoint: Mapping[str, Any], path: str | Path, target: str
) -> tuple[dict[str, Any], Conversion]:
    """Convert a checkpoint to the names of this model, FC-CLIP or the first ITA release.

    The training class list is kept, the state of training is not. The ancestors' class weights of
    the loss, which are no parameter, are kept beside the weights for the way back.

    Args:
        checkpoint: from :func:`read_checkpoint`.
        path: path of the file, for messages.
        target: one of ``ita.modeling.conversion.KINDS``.

    Returns:
        The content for :func:`export_weights`, and the list of tensors.

    Raises:
        UserError: see :func:`ita.modeling.conversion.convert`; or weights are not finite, or the
            class weights of the loss are not numbers.
    """
    weights = dict(checkpoint["model"])
    if EMPTY_WEIGHT in checkpoint:
        weights[EMPTY_WEIGHT] = _class_weights(checkpoint[EMPTY_WEIGHT], path)
    try:
        conversion = convert(weights, target)
    except UserError as error:
        raise UserError(f"cannot convert {path} to {target}: {error}") from error
    check_finite({entry.name: entry.tensor for entry in conversion.mapped}, path)
    converted = {"model": {entry.new_name: entry.tensor for entry in conversion.mapped}}
    if CLASSES in checkpoint:
        converted[CLASSES] = checkpoint[CLASSES]
    if target == ITA and EMPTY_WEIGHT in weights:
        converted[EMPTY_WEIGHT] = weights[EMPTY_WEIGHT].tolist()
    return converted, conversion


def _class_weights(stored: Any, path: str | Path) -> Tensor:
    try:
        return torch.tensor(stored)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{EMPTY_WEIGHT} in checkpoint {path} is not a list of numbers") from error


def export_weights(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint's weights and training class list, without state of training, atomically.

    Args:
        checkpoint: from :func:`read_checkpoint` or :func:`convert_checkpoint`.
        path: file to write: ``.safetensors``, or else in the format of ``torch.save``.

    Raises:
        UserError: the file cannot be written.
    """
    beside = {key: checkpoint[key] for key in (CLASSES, EMPTY_WEIGHT) if key in checkpoint}
    if Path(path).suffix == SAFETENSORS:
        write_tensors(path, checkpoint["model"], beside)
    else:
        save_checkpoint({"model": checkpoint["model"], **beside}, Path(path))


def read_checkpoint(path: str | Path, *, verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing any code in it.

    Args:
        path: a ``torch.save`` file, with the weights at the top level or under a separate key, or
            a ``.safetensors`` file.
        verify: compare the content of a ``torch.save`` file with the checksums in it.

    Returns:
        The file's dict, with the weights by name under "model".

    Raises:
        UserError: the file does not exist, is not a checkpoint or is damaged.
    """
    content = read_tensors(path, "checkpoint")
    if verify:
        check_intact(path)
    key = next((k for k in WEIGHTS_KEYS if isinstance(content.get(k), dict)), None)
    weights = content if key is None else content.pop(key)
    weights = _without_wrapper({k: v for k, v in weights.items() if isinstance(v, Tensor)})
    if not weights:
        raise UserError(f"checkpoint {path} has no weights")
    extra = read_metadata(path) if key is None else content
    return {**extra, "model": weights}


def check_intact(path: str | Path) -> None:
    """Compare the content of a ``torch.save`` file with the checksums that PyTorch writes into it.

    Files in other formats have none.

    Raises:
        UserError: the content does not fit its checksums.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as file:
            if not any(entry.CRC for entry in file.infolist()):
                return  # written with torch.serialization.set_crc32_options(False)
            damaged = file.testzip()
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"checkpoint {path} is damaged ({reason(error)})") from error
    if damaged is not None:
        raise UserError(f"checkpoint {path} is damaged: {damaged} does not fit its checksum")


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a ``torch.save`` file atomically, creating its folder.

    Raises:
        WriteError: the file cannot be written.
        UserError: weights are not finite; what is at ``path`` is left as it is.
    """
    if bad := nonfinite_names(content["model"]):
        raise UserError(
            f"{path} was not written: weights are not finite ({_join_names(bad)}); go on from an "
            "earlier checkpoint with a lower SOLVER.BASE_LR"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial, open(partial, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        if shortage_of(error) is Shortage.WORKER:
            raise  # PyTorch raises it at any place, and here by chance
        raise WriteError(f"cannot write checkpoint {path}: {reason(error)}") from error


def _frozen_keys(model: nn.Module) -> set[str]:
    return getattr(model, "frozen_state_keys", set)()


def broadcast_weights(model: nn.Module) -> None:
    """Broadcast all weights from the main process, including those that no checkpoint set."""
    if comm.get_world_size() > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


def _without_wrapper(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefix of names saved from inside a data-parallel wrapper."""
    prefix = "module."
    if all(name.startswith(prefix) for name in weights):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _check_shapes(weights: dict[str, Tensor], model: dict[str, Tensor], path: str) -> None:
    mismatched = [
        f"{name} ({shape_text(tensor)} in the file, {shape_text(model[name])} in the model)"
        for name, tensor in weights.items()
        if name in model and model[name].shape != tensor.shape
    ]
    if mismatched:
        differing = _differing_keys(weights, model)
        raise UserError(
            f"{path} does not fit the model of this config; shapes differ in "
            + _join_names(mismatched)
            + (f"; the file is from a model with {differing}" if differing else "")
        )


def check_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Check weights, by name, that were read from a file.

    Raises:
        UserError: some are not finite.
    """
    if bad := nonfinite_names(weights):
        raise UserError(
            f"{path} has weights that are not finite, as of a training that diverged: "
            f"{_join_names(bad)}; use an earlier checkpoint"
        )


def _differing_keys(weights: dict[str, Tensor], model: dict[str, Tensor]) -> str:
    """Name the config keys whose values differ between weights and model, with the weights'."""
    saved, built = architecture_of(weights), architecture_of(model)
    if saved is None or built is None:
        return ""
    keys = {
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": (saved.num_queries, built.num_queries),
        "MODEL.ITA.NUM_DOMINANT": (saved.num_dominant, built.num_dominant),
        "MODEL.ITA.SELF_ATTENTION": (saved.self_attention, built.self_attention),
        "MODEL.ITA.TEXT_RESIDUAL": (saved.text_residual, built.text_residual),
    }
    return ", ".join(f"{key} {theirs}" for key, (theirs, ours) in keys.items() if theirs != ours)


def _join_names(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
