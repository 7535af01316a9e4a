"""Checkpoints: what is trained and the state of training, written whole or not at all."""

import logging
import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import Tensor, nn

from ita.errors import UserError
from ita.evaluation.files import write_atomically
from ita.modeling.conversion import convert_state_dict

logger = logging.getLogger(__name__)

# Names under which training programs keep the weights inside a checkpoint.
WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict")
# Names of this many tensors are spelled out in one message.
LISTED = 6


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
        frozen = self._frozen_keys()
        state = {"model": {k: v for k, v in self.model.state_dict().items() if k not in frozen}}
        for key, checkpointable in self.checkpointables.items():
            state[key] = checkpointable.state_dict()
        state.update(kwargs)
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        _save_atomically(state, path)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of the folder the one that a resumed run goes on from."""
        path = Path(self.save_dir, "last_checkpoint")
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
        checkpoint = read_checkpoint(self._local_path(path))
        self._load_weights(checkpoint.pop("model"), path)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in checkpoint:
                raise UserError(f"{path} holds weights but no state of training to resume from")
            try:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise UserError(
                    f"cannot resume from {path}, which was written with another config or version: "
                    f"{_first_line(error)}"
                ) from error
        return checkpoint

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from the folder's last checkpoint, or else load only the weights of ``path``."""
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file())
        if resume:
            self.logger.info("Nothing to resume in %s", self.save_dir)
        return self.load(path, checkpointables=[])

    def _local_path(self, path: str) -> Path:
        """The file itself, downloaded if ``path`` is an address."""
        try:
            return Path(self.path_manager.get_local_path(path))
        except Exception as error:  # each kind of address has errors of its own
            raise UserError(f"cannot get checkpoint {path}: {_first_line(error)}") from error

    def _frozen_keys(self) -> set[str]:
        frozen_state_keys = getattr(self.model, "frozen_state_keys", set)
        return frozen_state_keys()

    def _load_weights(self, weights: dict[str, Tensor], path: str) -> None:
        weights = convert_state_dict(_without_wrapper(weights))
        model_weights = self.model.state_dict()
        _check_shapes(weights, model_weights, path)
        trained = model_weights.keys() - self._frozen_keys()
        if trained and trained.isdisjoint(weights):
            raise UserError(
                f"{path} holds no weights of this model; its tensors are {_listed(weights)}"
            )
        self.model.load_state_dict(weights, strict=False)
        if missing := trained - weights.keys():
            self.logger.warning(
                "%s lacks %d of the model's tensors, which keep their initial values: %s",
                path,
                len(missing),
                _listed(missing),
            )
        if unexpected := weights.keys() - model_weights.keys():
            self.logger.warning(
                "%s has %d tensors that the model does not: %s",
                path,
                len(unexpected),
                _listed(unexpected),
            )


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
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise UserError(f"checkpoint {path} {what}; MODEL.WEIGHTS names a .pth or .safetensors")
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"cannot read checkpoint {path}: it is damaged, or holds more than tensors and plain "
            "values"
        ) from error
    except Exception as error:  # what a reader of damaged bytes stumbles over can be anything
        raise UserError(
            f"cannot read checkpoint {path}; it is damaged or cut short ({_first_line(error)})"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} is a {type(content).__name__}, not weights by name")
    key = next((k for k in WEIGHTS_KEYS if isinstance(content.get(k), dict)), None)
    weights = content if key is None else content.pop(key)
    weights = {k: v for k, v in weights.items() if isinstance(v, Tensor)}
    if not weights:
        raise UserError(f"checkpoint {path} holds no weights")
    return {"model": weights} if key is None else {**content, "model": weights}


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError from torch.save
        raise UserError(f"cannot write checkpoint {path}: {_first_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first_line(error: BaseException) -> str:
    """The kind of an error and its first sentence; the rest may be pages of advice."""
    line = next(iter(str(error).splitlines()), "")
    return ": ".join(filter(None, (type(error).__name__, line.partition(". ")[0])))
