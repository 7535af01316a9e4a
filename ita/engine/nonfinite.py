"""Steps with a loss or gradients that are not finite: the images and numbers, and what follows."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from ita.engine.state import RunState
from ita.errors import UserError, WriteError
from ita.files import write_atomically

logger = logging.getLogger(__name__)

STOP, SKIP = "stop", "skip"
# After so many skipped steps in a row, weights or data are beyond help.
MAX_IN_A_ROW = 10
# Maximum number of losses and of images in a message, and of the largest gradients in a file.
MAX_LISTED, MAX_GRADIENTS = 4, 20
FILE_NAME = "nonfinite_{:07d}.json"


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch of a process: the files of its images, and its losses."""

    rank: int
    files: list[str]
    losses: dict[str, float]

    @property
    def finite(self) -> bool:
        """Whether all losses are finite."""
        return all(map(math.isfinite, self.losses.values()))


@dataclass(frozen=True)
class NonFiniteStep:
    """Measurements of a step that must not reach the weights.

    Attributes:
        iteration: its iteration.
        losses: each loss, averaged over micro-batches and processes.
        grad_norm: norm of all gradients.
        precision: dtype of matrix products.
        grad_scale: loss scale of float16, 1 for other dtypes.
        micro_batches: those of all processes.
        gradients: norm of the gradient of each parameter.
    """

    iteration: int
    losses: dict[str, float]
    grad_norm: float
    precision: str
    grad_scale: float
    micro_batches: list[MicroBatch]
    gradients: dict[str, float]

    def describe(self) -> str:
        """Name losses, gradient norm and images, in one line.

        The images are those of the micro-batches whose losses are not finite. If only gradients
        are not, they are those of the whole step, as gradients are averaged over processes.
        """
        losses = self.losses.items()
        bad = [f"{name} = {loss}" for name, loss in losses if not math.isfinite(loss)]
        numbers = [*_shortened(bad), f"the gradient norm is {self.grad_norm}"]
        suspects = [b for b in self.micro_batches if not b.finite] or self.micro_batches
        files = [file for batch in suspects for file in batch.files]
        ranks = sorted({batch.rank for batch in suspects})
        text = ", ".join(numbers)
        if files:
            of_ranks = f" of rank {', '.join(map(str, ranks))}" if comm.get_world_size() > 1 else ""
            text += f"; images{of_ranks}: {', '.join(_shortened(files))}"
        return text

    def content(self) -> dict[str, Any]:
        """Return the values for a file."""
        bad = {name: norm for name, norm in self.gradients.items() if not math.isfinite(norm)}
        finite = {name: norm for name, norm in self.gradients.items() if name not in bad}
        largest = sorted(finite, key=lambda name: finite[name], reverse=True)[:MAX_GRADIENTS]
        gradients = {"not_finite": bad, "largest": {name: finite[name] for name in largest}}
        return {**asdict(self), "gradients": gradients}


class NonFiniteSteps:
    """Ends a run at a step that is not finite, or counts it as skipped (``SOLVER.ON_NONFINITE``).

    Args:
        action: ``STOP`` or ``SKIP``.
        state: seed and position of the run, which reproduce the images.

    Attributes:
        folder: folder of a JSON file for each such step; None writes none.
        skipped: number of skipped steps.
    """

    def __init__(self, action: str = STOP, state: RunState | None = None) -> None:
        self.folder: Path | None = None
        self.skipped = 0
        self._action, self._state = action, state
        self._in_a_row = 0

    def handle(self, step: NonFiniteStep) -> None:
        """Write the file of a step that is not finite; called in every process.

        Raises:
            UserError: the run is to end, or this was the last of ``MAX_IN_A_ROW`` such steps.
        """
        text = f"{step.describe()}{self._dump(step)}"
        if self._action == STOP:
            raise UserError(
                f"training diverged at iteration {step.iteration}: {text}; lower SOLVER.BASE_LR, "
                f"or leave such steps out with SOLVER.ON_NONFINITE {SKIP}"
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= MAX_IN_A_ROW:
            raise UserError(
                f"training diverged: {MAX_IN_A_ROW} steps in a row were not finite, the last at "
                f"iteration {step.iteration}: {text}; lower SOLVER.BASE_LR and start from an "
                "earlier checkpoint"
            )
        logger.warning("skipped iteration %d: %s", step.iteration, text)

    def end_row(self) -> None:
        """Note a finite step."""
        self._in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        """Return the number of skipped steps, of all and of the last in a row."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the values of a checkpoint."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]

    def _dump(self, step: NonFiniteStep) -> str:
        """Write the file of a step and return the end of a message about it."""
        if self.folder is None:
            return ""
        path = self.folder / FILE_NAME.format(step.iteration)
        run = {} if self._state is None else self._state.state_dict()
        content = _as_json({**step.content(), "run": run})
        try:
            if comm.is_main_process():
                write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
        except WriteError as error:
            return f"; {error}"
        return f"; all losses and gradients: {path}"


def micro_batches_of(
    batches: Iterable[Sequence[Mapping[str, Any]]], losses: Iterable[Mapping[str, Any]]
) -> list[MicroBatch]:
    """Gather the micro-batches of a step from all processes; called in each of them.

    Args:
        batches: records of each micro-batch of this process.
        losses: scalar tensors by name, for each of them.
    """
    own = [
        MicroBatch(
            comm.get_rank(),
            [str(record["file_name"]) for record in batch if "file_name" in record],
            {name: float(loss) for name, loss in values.items()},
        )
        for batch, values in zip(batches, losses, strict=True)
    ]
    return [batch for of_rank in comm.all_gather(own) for batch in of_rank]


def _shortened(items: Sequence[str]) -> list[str]:
    more = [f"{len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return [*items[:MAX_LISTED], *more]


def _as_json(value: Any) -> Any:
    """Replace numbers that JSON does not have by texts such as "nan"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value
