"""Checkpoints: what is trained and the state of training, written whole or not at all."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import Tensor, nn

from ita.classes import ClassList
from ita.errors import UserError
from ita.files import write_atomically, written_whole
from ita.modeling.conversion import convert_state_dict
from ita.modeling.storage import read_metadata, read_tensors, reason, write_tensors

logger = logging.getLogger(__name__)

# Names under which training programs keep the weights inside a checkpoint.
WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict")
# Names of this many tensors are spelled out in one message.
LISTED = 6
# File that names the newest checkpoint of its folder (Detectron2's).
LAST_CHECKPOINT = "last_checkpoint"
# Key of the training class list.
CLASSES = "train_classes"


class Checkpointer(FvcoreCheckpointer):
    """Save and load a model's trained weights beside optimizer, schedule and iteration.

    The files are Detectron2's: ``{"model": ..., "trainer": ..., "iteration": ...}`` with
    ``last_checkpoint`` naming the newest. The frozen CLIP's weights are left out on saving and not
    missed on loading; a file that holds them loads too, and so does a ``.safetensors`` file of
    weights. Only the main process writes. Every process reads, so the files must be visible to all
    of them.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.path_manager = PathManager
        self.logger = logger

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth and then make it the last checkpoint.

        Raises:
            UserError: the folder cannot be written or is full; what was there is left as it was.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        frozen = _frozen_keys(self.model)
        state = {"model": {k: v for k, v in self.model.state_dict().items() if k not in frozen}}
        if (class_list := getattr(self.model, "train_class_list", None)) is not None:
            state[CLASSES] = class_list.to_dict()
        for key, checkpointable in self.checkpointables.items():
            state[key] = checkpointable.state_dict()
        state.update(kwargs)
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        _save_atomically(state, path)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of the folder the one that a resumed run goes on from."""
        path = Path(self.save_dir, LAST_CHECKPOINT)
        write_atomically(path, last_filename_basename.encode())

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load weights and the named states (default: all) from a file; "" loads nothing.

        Returns:
            What else the file holds.

        Raises:
            UserError: no such file, an unreadable or truncated one, weights of other shapes or of
                another model, or a state that does not fit.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: starting from initial weights")
            return {}
        self.logger.info("Loading %s", path)
        checkpoint = read_checkpoint(local_path(path))
        load_weights(self.model, checkpoint.pop("model"), path)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in checkpoint:
                raise UserError(f"{path} holds weights but no state of training to resume from")
            try:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise UserError(
                    f"cannot resume from {path}, which was written with another config or version: "
                    f"{reason(error)}"
                ) from error
        return checkpoint

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from the folder's last checkpoint, or else load only the weights of ``path``."""
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file())
        if resume:
            self.logger.info("Nothing to resume in %s", self.save_dir)
        return self.load(path, checkpointables=[])


def local_path(path: str) -> Path:
    """The file itself, downloaded if ``path`` is an address.

    Raises:
        UserError: it cannot be downloaded.
    """
    try:
        return Path(PathManager.get_local_path(path))
    except Exception as error:  # each kind of address has errors of its own
        raise UserError(f"cannot get checkpoint {path}: {reason(error)}") from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str) -> None:
    """Load weights by name, in the names of this model or of its ancestors.

    Args:
        model: those of its tensors that the weights lack, CLIP's aside, are named in a warning.
        weights: of :func:`read_checkpoint`.
        path: of the file, for messages.

    Raises:
        UserError: weights of other shapes, or none of this model.
    """
    weights = convert_state_dict(_without_wrapper(weights))
    model_weights = model.state_dict()
    _check_shapes(weights, model_weights, path)
    trained = model_weights.keys() - _frozen_keys(model)
    if trained and trained.isdisjoint(weights):
        raise UserError(
            f"{path} holds no weights of this model; its tensors are {_listed(weights)}"
        )
    model.load_state_dict(weights, strict=False)
    if missing := trained - weights.keys():
        logger.warning(
            "%s lacks %d of the model's tensors, which keep their initial values: %s",
            path,
            len(missing),
            _listed(missing),
        )
    if unexpected := weights.keys() - model_weights.keys():
        logger.warning(
            "%s has %d tensors that the model does not: %s",
            path,
            len(unexpected),
            _listed(unexpected),
        )


def trained_class_list(checkpoint: Mapping[str, Any], path: str) -> ClassList | None:
    """The training class list that a checkpoint carries; None in those of other programs.

    Raises:
        UserError: what it carries is not a class list.
    """
    if CLASSES not in checkpoint:
        return None
    try:
        return ClassList.from_dict(checkpoint[CLASSES])
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error


def export_weights(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint's weights and training class list as ``.safetensors``, atomically.

    Args:
        checkpoint: of :func:`read_checkpoint`.
        path: the file to write.

    Raises:
        UserError: the file cannot be written.
    """
    metadata = {CLASSES: checkpoint[CLASSES]} if CLASSES in checkpoint else {}
    write_tensors(path, checkpoint["model"], metadata)


def last_checkpoint(folder: str | Path) -> str:
    """Path of the newest checkpoint of a run's folder; "" if it has none."""
    try:
        name = Path(folder, LAST_CHECKPOINT).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return str(Path(folder, name))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code in it.

    Args:
        path: a file of ``torch.save``, with or without weights under a key of their own, or a
            ``.safetensors`` file.

    Returns:
        The file's dict, with the weights by name under "model".

    Raises:
        UserError: no such file, or one that is not a checkpoint or is damaged.
    """
    content = read_tensors(path, "checkpoint")
    key = next((k for k in WEIGHTS_KEYS if isinstance(content.get(k), dict)), None)
    weights = content if key is None else content.pop(key)
    weights = {k: v for k, v in weights.items() if isinstance(v, Tensor)}
    if not weights:
        raise UserError(f"checkpoint {path} holds no weights")
    others = read_metadata(path) if key is None else content
    return {**others, "model": weights}


def _frozen_keys(model: nn.Module) -> set[str]:
    return getattr(model, "frozen_state_keys", set)()


def broadcast_weights(model: nn.Module) -> None:
    """Give every process the main one's weights, also those that no checkpoint has set."""
    if comm.get_world_size() > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


def _without_wrapper(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix of names saved from inside a data-parallel wrapper."""
    prefix = "module."
    if all(name.startswith(prefix) for name in weights):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _check_shapes(weights: dict[str, Tensor], model: dict[str, Tensor], path: str) -> None:
    different = [
        f"{name} ({_shape(tensor)} in the file, {_shape(model[name])} in the model)"
        for name, tensor in weights.items()
        if name in model and model[name].shape != tensor.shape
    ]
    if different:
        raise UserError(
            f"{path} does not fit the model of this config; shapes differ in {_listed(different)}"
        )


def _save_atomically(state: dict[str, Any], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial, open(partial, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError from torch.save
        raise UserError(f"cannot write checkpoint {path}: {reason(error)}") from error


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
