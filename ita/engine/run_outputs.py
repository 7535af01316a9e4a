"""Outputs of a run that a full disk does not end: the log file and the writers of scalars."""

import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventStorage, EventWriter
from fvcore.common.history_buffer import HistoryBuffer

from ita.errors import WriteError, reason_of

logger = logging.getLogger(__name__)

# Logger of the package, to which a run's file is added.
PACKAGE_LOGGER = "ita"
# Number of values of a scalar that are kept, at least the longest window of a median.
NUM_RECENT = 1000


class LogFile(logging.FileHandler):
    """Handler of a run's log file.

    If the file cannot be written, it says so once, on stderr, and goes on. Lines that the disk has
    no place for are missing in the file.

    Args:
        path: the file, to whose end lines are written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        format_ = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
        self.setFormatter(logging.Formatter(format_, datefmt="%m/%d %H:%M:%S"))
        self._failures = _Failures(str(path))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        with self._failures.told():  # to open the file
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell the first failure to write."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._failures.tell(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close the file; lines that there is no place for are lost."""
        with suppress(OSError):
            super().close()


class LenientWriter(EventWriter):
    """Writer of scalars that does not end the training if it cannot write: it says so once.

    Args:
        name: what is written, for the message on stderr.
        build: builds the writer when it is first used.
    """

    def __init__(self, name: str, build: Callable[[], EventWriter]) -> None:
        self._build, self._failures = build, _Failures(name)

    @cached_property
    def _writer(self) -> EventWriter:
        return self._build()

    def write(self) -> None:
        """Write the scalars that are new since the last call."""
        with self._failures.told():
            self._writer.write()

    def close(self) -> None:
        """Close the files."""
        if "_writer" in vars(self):
            with self._failures.told():
                self._writer.close()


class RecentScalars(EventStorage):
    """Event storage that keeps the last values of each scalar, for medians.

    Detectron2's keeps a million: 4 KB for each iteration of a training, 1.5 GB for 368,750.
    """

    def __init__(self, start_iter: int = 0) -> None:
        super().__init__(start_iter)
        self._history: dict[str, HistoryBuffer] = defaultdict(partial(HistoryBuffer, NUM_RECENT))


class _Failures:
    """Failures to write something, of which the first is told on stderr."""

    def __init__(self, name: str) -> None:
        self._name, self._told = name, False

    def tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            sys.stderr.write(
                f"warning: cannot write {self._name} ({reason_of(error)}); the run goes on, "
                "what follows may be missing there\n"
            )

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn a failure inside the block into the message."""
        try:
            yield
        except OSError as error:
            self.tell(error)


@contextmanager
def outlasting_write_errors(*, last: bool) -> Iterator[None]:
    """Turn a file that cannot be written into a warning, unless it is the last of a training.

    A full disk is often temporary. What is not written then is lost only if it is full at the end,
    too, and that is an error.
    """
    try:
        yield
    except WriteError as error:
        if last:
            raise
        logger.warning("%s; training goes on", error)


@contextmanager
def quiet_event_threads() -> Iterator[None]:
    """Keep TensorBoard's threads from printing failures to write, which their writer raises too."""
    before = threading.excepthook

    def tell(failure: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(failure.thread).__module__.partition(".")[0] == "tensorboard"
        if not (of_tensorboard and isinstance(failure.exc_value, OSError)):
            before(failure)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before


def note_error(message: str, error: BaseException | None = None) -> None:
    """Write the error that ends this process to its log file, if it has one; not to the terminal.

    Args:
        message: what the user reads.
        error: whose traceback follows.
    """
    log = logging.getLogger(PACKAGE_LOGGER)
    trace: Any = None if error is None else (type(error), error, error.__traceback__)
    record = log.makeRecord(__name__, logging.ERROR, __file__, 0, message, (), trace)
    for handler in log.handlers:
        if isinstance(handler, LogFile):
            handler.handle(record)
