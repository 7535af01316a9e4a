"""Progress of long work: a bar on a terminal, lines in the log.

Code that works long takes a :data:`Progress` as an argument; programs pass :func:`show_progress`.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

# Called with the number of items that have been finished since the last call.
Advance = Callable[[int], None]
# Called with a title, the number of items and their name in the plural when work begins.
Progress = Callable[[str, int, str], AbstractContextManager[Advance]]

SECONDS_PER_LINE = 30.0
# ``extra`` of log lines that say what a bar shows: on a terminal, only the log file has them.
IN_BAR = {"in_bar": True}


@contextmanager
def no_progress(title: str, total: int, items: str) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda count: None


@contextmanager
def show_progress(title: str, total: int, items: str) -> Iterator[Advance]:
    """Show the progress of the work inside the block.

    On a terminal, stderr gets a bar with rate and remaining time, which disappears at the end. The
    log gets a line at the start, one every ``SECONDS_PER_LINE``, and one at the end.

    Args:
        title: what is done.
        total: number of items; items beyond it are not counted.
        items: name of the items, in the plural.

    Yields:
        The function to call with the number of items that have just been finished.
    """
    start = last = time.perf_counter()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        count = min(count, total - done)
        done += count
        bar.update(count)
        now = time.perf_counter()
        if now - last >= SECONDS_PER_LINE and done < total:
            last = now
            rate = done / (now - start)
            left = f"eta {_clock((total - done) / rate)}" if rate else "eta unknown"
            message = "%s: %s of %s %s, %s/s, %s"
            finished = f"{done:,}"
            logger.info(
                message, title, finished, f"{total:,}", items, _short(rate), left, extra=IN_BAR
            )

    logger.info("%s: %s %s", title, f"{total:,}", items, extra=IN_BAR)
    with open_bar(title, total, f" {items}") as bar:
        yield advance
    seconds = time.perf_counter() - start
    rate = _short(done / max(seconds, 1e-9))
    logger.info("%s: %s %s in %s, %s/s", title, f"{done:,}", items, _clock(seconds), rate)


def open_bar(title: str, total: int, unit: str, *, initial: int = 0) -> "tqdm[Any]":
    """Open a bar on stderr, which shows nothing unless that is a terminal.

    Args:
        title: what is done.
        total: number of items.
        unit: unit of the rate.
        initial: number of items that were finished earlier.
    """
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        initial=initial,
        disable=None,
        leave=False,
        dynamic_ncols=True,
    )


class ConsoleHandler(logging.StreamHandler):
    """Log handler of a terminal: writes lines above the bars, except those marked ``IN_BAR``."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if getattr(record, "in_bar", False) and sys.stderr.isatty() and self.stream.isatty():
            return
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
