"""Checkpoints of a run: trainable parameters and training state, the newest of which is marked."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from ita.engine.checkpoint import (
    LAST_CHECKPOINT,
    load_weights,
    local_path,
    read_checkpoint,
    save_checkpoint,
    trained_content,
)
from ita.engine.recovery import Retention, agree_on_resumable
from ita.errors import UserError
from ita.files import write_atomically
from ita.modeling.storage import reason

logger = logging.getLogger(__name__)


class Checkpointer(FvcoreCheckpointer):
    """Save and load a model's trained weights with optimizer, schedule and iteration.

    The file format is Detectron2's: ``{"model": ..., "trainer": ..., "iteration": ...}``, with
    ``last_checkpoint`` naming the newest file. The frozen CLIP's weights are not saved and not
    required for loading; files that contain them can be loaded, as can ``.safetensors`` files of
    weights. Only the main process writes. Every process reads, so the files must be visible to all
    of them.

    Attributes:
        resumed_from: the checkpoint that the run was resumed from, if it was.
        last_saved: the checkpoint that was saved last, if one was.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        retention: Retention = Retention(),  # noqa: B008  immutable
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self._retention = retention
        self.resumed_from: Path | None = None
        self.last_saved: Path | None = None
        self.path_manager = PathManager
        self.logger = logger

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth, mark it as the last checkpoint, and remove those not to be kept.

        Raises:
            WriteError: the folder cannot be written or is full; existing files are left unchanged.
            UserError: weights are not finite; existing files are left unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: state.state_dict() for key, state in self.checkpointables.items()}
        path = self.save_weights(name, **states, **kwargs)
        self.tag_last_checkpoint(path.name)
        self.last_saved = path
        self._retention.apply(path)

    def save_weights(self, name: str, **content: Any) -> Path:
        """Write ``name``.pth with the trained weights, their class list and ``content`` only.

        Returns:
            The path of the file.

        Raises:
            UserError: see :meth:`save`.
        """
        state = trained_content(self.model)
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        save_checkpoint({**state, **content}, path)
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Mark a file of the folder as the checkpoint that a run resumes from."""
        path = Path(self.save_dir, LAST_CHECKPOINT)
        write_atomically(path, last_filename_basename.encode())

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load weights and the named states (default: all) from a file; "" loads nothing.

        Returns:
            The remaining content of the file.

        Raises:
            UserError: the file does not exist, is unreadable or truncated, has weights of other
                shapes or of another model, or a state that does not fit.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: starting from the initial weights")
            return {}
        names = self.checkpointables if checkpointables is None else checkpointables
        return self._load(path, names, verify=True)

    def _load(self, path: str, names: Iterable[str], *, verify: bool) -> dict[str, Any]:
        self.logger.info("Loading %s", path)
        checkpoint = read_checkpoint(local_path(path), verify=verify)
        load_weights(self.model, checkpoint.pop("model"), path)
        for key in names:
            if key not in checkpoint:
                raise UserError(f"{path} has weights but no training state to resume from")
            try:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise UserError(
                    f"cannot resume from {path}, which was written with another config or version: "
                    f"{reason(error)}"
                ) from error
        return checkpoint

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the folder's last checkpoint, or else load only the weights of ``path``.

        Raises:
            UserError: the folder has checkpoints but none is intact; or see :meth:`load`.
        """
        resume = resume and bool(self.save_dir)
        self.resumed_from = agree_on_resumable(Path(self.save_dir)) if resume else None
        if self.resumed_from is not None:
            # Its checksums were compared when it was found.
            return self._load(str(self.resumed_from), self.checkpointables, verify=False)
        if resume:
            self.logger.info("No checkpoint to resume from in %s", self.save_dir)
        return self.load(path, checkpointables=[])
