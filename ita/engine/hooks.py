"""Hooks around training steps: progress in log and terminal, speed and memory as scalars."""

import datetime
import logging
import resource
import sys

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from ita.data.mapper import SharedCounter
from ita.engine.run_outputs import outlasting_write_errors
from ita.progress import IN_BAR, open_bar

logger = logging.getLogger(__name__)

# Number of iterations between log lines, and window of the medians in them.
WINDOW = 20


class Throughput(HookBase):
    """Records images per second, over the whole job, and peak memory in the event storage."""

    def __init__(self, images_per_step: int, device: torch.device) -> None:
        self._images_per_step = images_per_step
        self._device = device

    def after_step(self) -> None:
        """Record the scalars; the timer's hook must have run before."""
        storage = self.trainer.storage
        seconds, iteration = storage.latest().get("time", (0.0, -1))
        if iteration == self.trainer.iter and seconds > 0:
            storage.put_scalar("images_per_second", self._images_per_step / seconds)
        storage.put_scalar("memory_gb", peak_memory(self._device) / 1e9, smoothing_hint=False)


class SkippedImages(HookBase):
    """Records the number of training images without a usable pixel, over all processes."""

    def __init__(self, counter: SharedCounter, period: int = WINDOW) -> None:
        self._counter = counter
        self._period = period

    def after_step(self) -> None:
        """Gather the counts in the iterations that are logged."""
        iteration = self.trainer.iter + 1
        if iteration % self._period == 0 or iteration == self.trainer.max_iter:
            total = sum(comm.all_gather(self._counter.value))
            self.trainer.storage.put_scalar("skipped_images", total, smoothing_hint=False)


class PeriodicCheckpoints(hooks.PeriodicCheckpointer):
    """Saves checkpoints; one that cannot be written is a warning, but the last one is an error."""

    def after_step(self) -> None:
        """Save a checkpoint if it is time."""
        with outlasting_write_errors(last=self.trainer.iter + 1 >= self.trainer.max_iter):
            super().after_step()


class TrainingBar(HookBase):
    """Shows a bar with rate, remaining time, loss and memory on a terminal, else nothing."""

    def __init__(self, start_iter: int, max_iter: int) -> None:
        self._bar = open_bar("training", max_iter, "it", initial=start_iter)

    def after_step(self) -> None:
        """Advance the bar."""
        storage = self.trainer.storage
        parts = _format_scalar(storage, "total_loss", "loss {:.4g}")
        parts += _format_scalar(storage, "memory_gb", "memory {:.1f} GB", window=1)
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Remove the bar."""
        self._bar.close()


class ProgressWriter(EventWriter):
    """Logs one line of training progress: losses of the last prediction, speed, ETA, memory."""

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter

    def write(self) -> None:
        """Log the line, unless training is over."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:
            return
        parts = [f"iter {storage.iter + 1}/{self._max_iter}"]
        if (seconds := _median(storage, "time", window=1000)) is not None:
            left = seconds * (self._max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", left, smoothing_hint=False)
            parts.append(f"eta {datetime.timedelta(seconds=int(left))}")
        for name in ("total_loss", "loss_ce", "loss_mask", "loss_dice"):
            parts += _format_scalar(storage, name, f"{name} {{:.4g}}")
        parts += _format_scalar(storage, "lr", "lr {:.3g}", window=1)
        parts += _format_scalar(storage, "grad_norm", "grad_norm {:.3g}")
        parts += _format_scalar(storage, "images_per_second", "{:.3g} images/s")
        parts += _format_scalar(storage, "data_time", "data {:.3f} s")
        parts += _format_scalar(storage, "memory_gb", "memory {:.1f} GB", window=1)
        for name in ("skipped_images", "bad_images", "skipped_steps", "nonfinite_steps"):
            parts += _format_scalar(storage, name, name.replace("_", " ") + " {:.0f}", window=1)
        logger.info("  ".join(parts), extra=IN_BAR)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a GPU or, for the CPU, resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _median(storage: EventStorage, name: str, window: int = WINDOW) -> float | None:
    if name not in storage.histories():
        return None
    return storage.history(name).median(storage.count_samples(name, window))


def _format_scalar(storage: EventStorage, name: str, text: str, window: int = WINDOW) -> list[str]:
    value = _median(storage, name, window)
    return [] if value is None else [text.format(value)]
