"""Signals that stop a training after the step in progress."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children, util
from types import FrameType

# Of terminals, schedulers, lost connections, and SLURM's --signal=USR1.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Exit code of a training that was stopped and can be resumed: "temporary failure" of sysexits.h.
STOPPED = 75
# A terminal and a launcher may both pass on the same signal.
SAME_SECONDS = 1.0


def ignore_signals(worker: int = 0) -> None:
    """Leave signals to the process that started this one, a data loader worker."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_workers_at_exit() -> None:
    """End the data loader workers that are left when this process ends, as after an error.

    Python ends them by SIGTERM, which they ignore, and would wait for them forever.
    """
    util.Finalize(None, _end_workers, exitpriority=0)


def _end_workers() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise an error
    for child in active_children():
        if child.daemon:
            child.kill()


@contextmanager
def ended_workers_ignored() -> Iterator[None]:
    """Keep PyTorch from raising, inside the block, that a data loader worker was killed.

    It does so for each signal about it, at any place: also while the error about it is handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except RuntimeError:  # which a signal that came before has raised
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


class StopSignals:
    """Notes the first signal; a second one, later, ends the process at once.

    Attributes:
        received: number of the signal, 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._time = 0.0

    @property
    def name(self) -> str:
        """Name of the signal, such as SIGTERM."""
        return signal.Signals(self.received).name if self.received else ""

    def note(self, number: int) -> None:
        """Note a signal."""
        now = time.monotonic()
        if self.received and now - self._time > SAME_SECONDS:
            os._exit(128 + number)
        if not self.received:
            self.received, self._time = number, now


@contextmanager
def noted_signals() -> Iterator[StopSignals]:
    """Note signals inside the block instead of being ended by them; in the main thread only."""
    signals = StopSignals()
    with _handled(signals.note):
        yield signals


@contextmanager
def forwarded_signals(children: Callable[[], list[int]]) -> Iterator[None]:
    """Pass signals on to child processes, inside the block.

    Args:
        children: returns their process ids.
    """

    def forward(number: int) -> None:
        for child in children():
            os.kill(child, number)

    with _handled(forward):
        yield


@contextmanager
def _handled(handle: Callable[[int], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python has signal handlers in the main thread only
        return

    def handler(number: int, frame: FrameType | None) -> None:
        handle(number)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
