"""Selection of the operators' plain definitions in place of their fast versions."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_plain = ContextVar("plain", default=False)


@contextmanager
def plain_operators() -> Iterator[None]:
    """Run operators by their plain definitions inside the block, to compare with or to debug.

    It holds for the calling thread only.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def plain_selected() -> bool:
    """Whether the caller is inside :func:`plain_operators`."""
    return _plain.get()
