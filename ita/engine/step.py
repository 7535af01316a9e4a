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

# Each overflow halves the loss scale: this many in a row reduce it from 65536 to almost zero.
MAX_OVERFLOWS_IN_A_ROW = 50


@dataclass(frozen=True)
class StepReport:
    """Measurements of an optimizer step.

    Attributes:
        losses: each loss, averaged over micro-batches and processes.
        data_time: seconds that the slowest process waited for its images.
        grad_norm: norm of all gradients before clipping; not finite if the step was skipped.
        grad_scale: loss scale of float16, 1 for other dtypes.
        skipped: whether the step was skipped because gradients overflowed in float16.
        stop: whether a process asks to stop.
    """

    losses: dict[str, float]
    data_time: float
    grad_norm: float
    grad_scale: float
    skipped: bool
    stop: bool


class OptimizerStep:
    """Runs optimizer steps of a model that returns a dict of losses.

    A step that overflows in float16 leaves weights and optimizer unchanged and halves the loss
    scale; it still counts as an iteration, also for the schedule.
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
        """Set up the loss scale and the gradient clipping.

        Args:
            model: called with a list of records; may be wrapped in DistributedDataParallel.
            optimizer: optimizer of the model's trainable parameters.
            device: device of the model.
            dtype: dtype of matrix products: float32, bfloat16, or float16 with a loss scale.
            max_norm: maximum norm of all gradients together, which are scaled down to it.
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
        self,
        batches: Iterable[list[dict[str, Any]]],
        *,
        data_time: float = 0.0,
        iteration: int = 0,
        stop: bool = False,
    ) -> StepReport:
        """Accumulate the gradients of the micro-batches and update the weights.

        Args:
            batches: micro-batches of this process for the step.
            data_time: seconds spent waiting for them, for the report.
            iteration: iteration number, for error messages.
            stop: whether this process asks all processes to stop after the step.

        Raises:
            UserError: a loss or, without a loss scale, a gradient is not finite; or the loss scale
                has dropped to almost zero.
        """
        batches = list(batches)
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            losses = self._backward(batch, len(batches), synchronize=number == len(batches))
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
        # Unscale first, so that clipping sees the norm of the gradients themselves.
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm, self._norm_type)
        means = {name: loss / len(batches) for name, loss in sums.items()}
        report = self._report(means, norm, data_time, stop)
        self._check(report, iteration)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return report

    def state_dict(self) -> dict[str, Any]:
        """State of optimizer and loss scale, and the number of skipped steps."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "overflows_in_a_row": self._overflows_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of another run; the loss scale is kept if that run had none."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["grad_scaler"]:
            self.scaler.load_state_dict(state["grad_scaler"])
        self.skipped = state["skipped"]
        self._overflows_in_a_row = state.get("overflows_in_a_row", 0)

    def _backward(
        self, batch: list[dict[str, Any]], count: int, *, synchronize: bool
    ) -> dict[str, Tensor]:
        sync_context: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(self.model, DistributedDataParallel) and not synchronize:
            sync_context = self.model.no_sync()
        with sync_context:
            with torch.autocast(
                self._device.type, self._dtype, enabled=self._dtype != torch.float32
            ):
                losses = self.model(batch)
            self.scaler.scale(sum(losses.values()) / count).backward()
        return {name: loss.detach().float() for name, loss in losses.items()}

    def _report(
        self, losses: dict[str, Tensor], norm: Tensor, data_time: float, stop: bool
    ) -> StepReport:
        """Gather the values of all processes in one call, waiting for the device only once."""
        losses = dict(sorted(losses.items()))
        values = [*losses.values(), norm.float()]
        row = torch.stack([value.reshape(()) for value in values])
        row = torch.cat([row, row.new_tensor([data_time, stop])])
        rows = [row]
        if isinstance(self.model, DistributedDataParallel):
            rows = [torch.empty_like(row) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(rows, row)
        table = torch.stack(rows).tolist()
        columns = [sum(column) / len(column) for column in zip(*table, strict=True)]
        *means, norm_value, _, _ = columns
        return StepReport(
            losses=dict(zip(losses, means, strict=True)),
            data_time=max(row[-2] for row in table),
            stop=any(row[-1] for row in table),
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
                f"training diverged at iteration {iteration}: the gradient norm is "
                f"{report.grad_norm}"
            )
