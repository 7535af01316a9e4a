"""Numbers of seen and of unseen classes, beside those of all.

A class is seen if it shares a synonym with the training vocabulary (``ClassList.seen``).
"""

from collections.abc import Iterator, Sequence

import numpy as np


def split_by_seen(seen: Sequence[bool]) -> Iterator[tuple[str, np.ndarray]]:
    """Suffix of result keys and bool [C], the classes it stands for: all, seen and unseen ones."""
    flags = np.asarray(seen, dtype=bool)
    yield "", np.ones_like(flags)
    yield "_seen", flags
    yield "_unseen", ~flags


def shares_by_seen(
    key: str, part: np.ndarray, whole: np.ndarray, seen: Sequence[bool]
) -> dict[str, float]:
    """Percentage of ``part`` in ``whole`` (counts, [C] each), added up over the classes of a side.

    Returns:
        ``key``, ``key``_seen and ``key``_unseen; NaN where there is nothing to count.
    """
    shares = {}
    for suffix, classes in split_by_seen(seen):
        shares[key + suffix] = percentage(part[classes].sum(), whole[classes].sum())
    return shares


def percentage(part: float, whole: float) -> float:
    """100 · part / whole; NaN if there is no whole."""
    return 100 * float(part / whole) if whole else float("nan")


def harmonic_mean(one: float, other: float) -> float:
    """2 · one · other / (one + other): high if both are; NaN if one of them is."""
    return 2 * one * other / (one + other) if one + other else 0.0
