"""Metrics over seen and over unseen classes, in addition to all classes.

A class is seen if it shares a synonym with the training class list (``ClassList.seen``).
"""

from collections.abc import Iterator, Sequence

import numpy as np


def split_by_seen(seen: Sequence[bool]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield suffixes of result keys with the selected classes, bool [C]: all, seen, unseen."""
    flags = np.asarray(seen, dtype=bool)
    yield "", np.ones_like(flags)
    yield "_seen", flags
    yield "_unseen", ~flags


def shares_by_seen(
    key: str, part: np.ndarray, whole: np.ndarray, seen: Sequence[bool]
) -> dict[str, float]:
    """Percentage of ``part`` in ``whole`` (counts, [C] each), summed over all, seen and unseen.

    Returns:
        ``key``, ``key``_seen and ``key``_unseen; NaN if there is nothing to count.
    """
    shares = {}
    for suffix, classes in split_by_seen(seen):
        shares[key + suffix] = percentage(part[classes].sum(), whole[classes].sum())
    return shares


def percentage(part: float, whole: float) -> float:
    """100 · part / whole; NaN if ``whole`` is zero."""
    return 100 * float(part / whole) if whole else float("nan")


def harmonic_mean(one: float, other: float) -> float:
    """2 · one · other / (one + other): high only if both are; NaN if either is NaN."""
    return 2 * one * other / (one + other) if one + other else 0.0
