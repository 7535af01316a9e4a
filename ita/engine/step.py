"""One optimizer step: accumulation, mixed precision, data parallelism, clipping."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ita.errors import UserError

# The scale halves with each overflow, so this many in a row bring it from 65536 to nothing.
MAX_OVERFLOWS_IN_A_ROW = 50


def matmul_dtype(enabled: bool, name: str, device: torch.device) -> torch.dtype:
    """The type of matrix products that ``SOLVER.AMP.ENABLED`` and ``SOLVER.AMP.DTYPE`` ask for."""
    if not enabled:
        return torch.float32
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.bfloat16
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]


@dataclass(frozen=True)
class StepReport:
    """What an optimizer step was like.

    Attributes:
        losses: each loss, averaged over micro-batches and processes.
        data_time: seconds that the slowest process waited for its images.
        grad_norm: norm of all gradients before clipping; not finite where the step was skipped.
        grad_scale: the loss scale of float16, 1 in other types.
        skipped: the step was left out because gradients overflowed in float16.
    """

    losses: dict[str, float]
    data_time: float
    grad_norm: float
    grad_scale: float
    skipped: bool


class OptimizerStep:
    """Runs optimizer steps of a model that returns a dict of losses.

    A step that overflows in float16 leaves weights and optimizer as they are and halves the loss
    scale; it counts as an iteration all the same, for the schedule too.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_norm: float,
        norm_type: float,
    ) -> None:
        """Prepare steps.

        Args:
            model: called with a list of records; data-parallel if wrapped so.
            optimizer: over the model's trained parameters.
            device: where the model is.
            dtype: type of matrix products: float32, bfloat16, or float16 with a loss scale.
            max_norm: all gradients together are scaled down to at most this norm.
            norm_type: order of that norm.
        """
        self.model = model
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.skipped = 0
        self._device = device
        self._dtype = dtype
        self._max_norm = max_norm
        self._norm_type = norm_type
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._overflows_in_a_row = 0

    def __call__(
        self, batches: Iterable[list[dict[str, Any]]], *, data_time: float = 0.0, iteration: int = 0
    ) -> StepReport:
        """Accumulate the gradients of the micro-batches and update the weights.

        Args:
            batches: this process's micro-batches of the step.
            data_time: seconds it took to get them, for the report.
            iteration: number of the step, for errors.

        Raises:
            UserError: a loss or, without a loss scale, a gradient is not finite; or the loss scale
                shrank to nothing.
        """
        batches = list(batches)
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            losses = self._backward(batch, len(batches), synchronize=number == len(batches))
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
        # Unscaling comes first: the norm that is clipped is that of the gradients themselves.
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm, self._norm_type)
        means = {name: loss / len(batches) for name, loss in sums.items()}
        report = self._report(means, norm, data_time)
        self._check(report, iteration)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return report

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, loss scale and the count of skipped steps."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another run, whose loss scale is left where it had none."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["grad_scaler"]:
            self.scaler.load_state_dict(state["grad_scaler"])
        self.skipped = state["skipped"]

    def _backward(
        self, batch: list[dict[str, Any]], count: int, *, synchronize: bool
    ) -> dict[str, Tensor]:
        waiting: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(self.model, DistributedDataParallel) and not synchronize:
            waiting = self.model.no_sync()
        with waiting:
            with torch.autocast(
                self._device.type, self._dtype, enabled=self._dtype != torch.float32
            ):
                losses = self.model(batch)
            self.scaler.scale(sum(losses.values()) / count).backward()
        return {name: loss.detach().float() for name, loss in losses.items()}

    def _report(self, losses: dict[str, Tensor], norm: Tensor, data_time: float) -> StepReport:
        """Gather numbers from all processes in one go and wait for the device just once."""
        losses = dict(sorted(losses.items()))
        values = [*losses.values(), norm.float()]
        row = torch.stack([value.reshape(()) for value in values])
        row = torch.cat([row, row.new_tensor([data_time])])
        rows = [row]
        if isinstance(self.model, DistributedDataParallel):
            rows = [torch.empty_like(row) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(rows, row)
        table = torch.stack(rows).tolist()
        columns = [sum(column) / len(column) for column in zip(*table, strict=True)]
        norm_value = columns[-2]
        return StepReport(
            losses=dict(zip(losses, columns[:-2], strict=True)),
            data_time=max(row[-1] for row in table),
            grad_norm=norm_value,
            grad_scale=self.scaler.get_scale(),
            skipped=self.scaler.is_enabled() and not math.isfinite(norm_value),
        )

    def _check(self, report: StepReport, iteration: int) -> None:
        bad = {name: value for name, value in report.losses.items() if not math.isfinite(value)}
        if bad:
            values = ", ".join(f"{name} = {value}" for name, value in bad.items())
            raise UserError(f"training diverged at iteration {iteration}: {values}")
        if report.skipped:
            self.skipped += 1
            self._overflows_in_a_row += 1
            if self._overflows_in_a_row >= MAX_OVERFLOWS_IN_A_ROW:
                raise UserError(
                    f"gradients overflowed float16 in {MAX_OVERFLOWS_IN_A_ROW} steps in a row, the "
                    f"last being iteration {iteration}; set SOLVER.AMP.DTYPE to bfloat16 or "
                    "SOLVER.AMP.ENABLED to False"
                )
            return
        self._overflows_in_a_row = 0
        if not math.isfinite(report.grad_norm):
            raise UserError(
                f"training diverged at iteration {iteration}: the norm of the gradients is "
                f"{report.grad_norm}"
            )
