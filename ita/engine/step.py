"""One optimizer step: accumulation, mixed precision, data parallelism, clipping."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ita.engine.nonfinite import NonFiniteStep, NonFiniteSteps, micro_batches_of
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
        nonfinite: whether it was skipped because losses or gradients were not finite for another
            reason.
        stop: whether a process asks to stop.
        news: whether a process has news for the others.
    """

    losses: dict[str, float]
    data_time: float
    grad_norm: float
    grad_scale: float
    skipped: bool
    nonfinite: bool
    stop: bool
    news: bool


class OptimizerStep:
    """Runs optimizer steps of a model that returns a dict of losses.

    A step that overflows in float16 leaves weights and optimizer unchanged and halves the loss
    scale; it still counts as an iteration, also for the schedule. So does a step that is not finite
    for another reason, if such steps are to be skipped, and it leaves the loss scale.
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
        nonfinite: NonFiniteSteps | None = None,
    ) -> None:
        """Set up the loss scale and the gradient clipping.

        Args:
            model: called with a list of records; may be wrapped in DistributedDataParallel.
            optimizer: optimizer of the model's trainable parameters.
            device: device of the model.
            dtype: dtype of matrix products: float32, bfloat16, or float16 with a loss scale.
            max_norm: maximum norm of all gradients together, which are scaled down to it.
            norm_type: order of that norm.
            nonfinite: decides about steps that are not finite; by default they are errors.
        """
        self.model = model
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.skipped = 0
        self.nonfinite = nonfinite or NonFiniteSteps()
        # Last iteration whose update may have begun; -1 for none.
        self.begun = -1
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
        news: bool = False,
    ) -> StepReport:
        """Accumulate the gradients of the micro-batches and update the weights.

        Args:
            batches: micro-batches of this process for the step.
            data_time: seconds spent waiting for them, for the report.
            iteration: iteration number, for error messages.
            stop: whether this process asks all processes to stop after the step.
            news: whether this process has news for the others.

        Raises:
            UserError: a loss or, without a loss scale, a gradient is not finite, and such steps are
                not skipped; or the loss scale has dropped to almost zero.
        """
        batches = list(batches)
        self.optimizer.zero_grad()
        losses = [
            self._backward(batch, len(batches), synchronize=number == len(batches))
            for number, batch in enumerate(batches, start=1)
        ]
        # Unscale first, so that clipping sees the norm of the gradients themselves.
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, self._norm_type)
        means = {name: torch.stack([part[name] for part in losses]).mean() for name in losses[0]}
        report = self._report(means, norm, data_time, stop, news)
        self.begun = iteration
        if report.nonfinite:
            self.nonfinite.handle(self._describe(report, iteration, batches, losses))
            # Ends the step of the scaler and keeps the loss scale.
            self.scaler.update(self.scaler.get_scale())
            return report
        self.nonfinite.end_row()
        self._count_overflows(report, iteration)
        nn.utils.clip_grads_with_norm_(self._parameters, self._max_norm, norm)
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
            "nonfinite": self.nonfinite.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of another run; the loss scale is kept if that run had none."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["grad_scaler"]:
            self.scaler.load_state_dict(state["grad_scaler"])
        self.skipped = state["skipped"]
        self._overflows_in_a_row = state.get("overflows_in_a_row", 0)
        if "nonfinite" in state:
            self.nonfinite.load_state_dict(state["nonfinite"])

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
        self, losses: dict[str, Tensor], norm: Tensor, data_time: float, stop: bool, news: bool
    ) -> StepReport:
        """Gather the values of all processes in one call, waiting for the device only once."""
        losses = dict(sorted(losses.items()))
        values = [*losses.values(), norm.float()]
        row = torch.stack([value.reshape(()) for value in values])
        row = torch.cat([row, row.new_tensor([data_time, stop, news])])
        rows = [row]
        if isinstance(self.model, DistributedDataParallel):
            rows = [torch.empty_like(row) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(rows, row)
        table = torch.stack(rows).tolist()
        columns = [sum(column) / len(column) for column in zip(*table, strict=True)]
        *means, norm_value, _, _, _ = columns
        finite_losses, finite_norm = all(map(math.isfinite, means)), math.isfinite(norm_value)
        overflow = finite_losses and not finite_norm and self.scaler.is_enabled()
        return StepReport(
            losses=dict(zip(losses, means, strict=True)),
            data_time=max(row[-3] for row in table),
            stop=any(row[-2] for row in table),
            news=any(row[-1] for row in table),
            grad_norm=norm_value,
            grad_scale=self.scaler.get_scale(),
            skipped=overflow,
            nonfinite=not ((finite_losses and finite_norm) or overflow),
        )

    def _describe(
        self,
        report: StepReport,
        iteration: int,
        batches: list[list[dict[str, Any]]],
        losses: list[dict[str, Tensor]],
    ) -> NonFiniteStep:
        model = self.model
        if isinstance(model, DistributedDataParallel):
            model = model.module
        named = model.named_parameters()
        gradients = {name: p.grad.norm().item() for name, p in named if p.grad is not None}
        return NonFiniteStep(
            iteration=iteration,
            losses=report.losses,
            grad_norm=report.grad_norm,
            precision=str(self._dtype).removeprefix("torch."),
            grad_scale=report.grad_scale,
            micro_batches=micro_batches_of(batches, losses),
            gradients=gradients,
        )

    def _count_overflows(self, report: StepReport, iteration: int) -> None:
        if not report.skipped:
            self._overflows_in_a_row = 0
            return
        self.skipped += 1
        self._overflows_in_a_row += 1
        if self._overflows_in_a_row >= MAX_OVERFLOWS_IN_A_ROW:
            raise UserError(
                f"gradients overflowed float16 in {MAX_OVERFLOWS_IN_A_ROW} steps in a row, the "
                f"last being iteration {iteration}; set SOLVER.AMP.DTYPE to bfloat16 or "
                "SOLVER.AMP.ENABLED to False"
            )
