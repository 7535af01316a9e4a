"""Plot of time and memory by number of classes."""

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from ita.errors import UserError

# Colors of the color-blind-safe Okabe-Ito palette.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SIZE = (8.0, 3.2)
GIGABYTE = 1e9


@dataclass(frozen=True)
class Point:
    """A measured row: number of classes, seconds of each repeat, GB above weights and input."""

    classes: int
    seconds: tuple[float, ...]
    gigabytes: float


def read_points(paths: Sequence[Path]) -> dict[str, list[Point]]:
    """Read results of ``inference``; return the points of each variant, by number of classes.

    Raises:
        UserError: a file cannot be read, or has no results by number of classes.
    """
    series: dict[str, list[Point]] = {}
    for path in paths:
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
            for row in (row for row in rows if not row["error"]):
                above = row["memory"]["above"] / GIGABYTE
                point = Point(row["settings"]["classes"], tuple(row["seconds"]), above)
                series.setdefault(row["variant"], []).append(point)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not an --output of `benchmark.py inference`") from error
    if not series:
        raise UserError("no row was measured in " + ", ".join(map(str, paths)))
    return {name: sorted(points, key=lambda p: p.classes) for name, points in series.items()}


def draw_plot(series: Mapping[str, Sequence[Point]]) -> bytes:
    """Draw seconds, with their range, and memory side by side as SVG."""
    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "benchmark",  # the same file for the same numbers
    }
    with pyplot.rc_context(style):
        figure, (times, memory) = pyplot.subplots(1, 2, figsize=SIZE, layout="constrained")
        for color, (name, points) in zip(COLORS, series.items(), strict=False):
            classes = [point.classes for point in points]
            middle = [statistics.median(point.seconds) for point in points]
            times.plot(classes, middle, "o-", color=color, label=name)
            low, high = ([f(point.seconds) for point in points] for f in (min, max))
            times.fill_between(classes, low, high, color=color, alpha=0.2, linewidth=0)
            memory.plot(classes, [p.gigabytes for p in points], "o-", color=color, label=name)
        ticks = sorted({point.classes for points in series.values() for point in points})
        _finish(times, "seconds per pass", ticks)
        _finish(memory, "GB above weights and input", ticks)
        if len(series) > 1:
            times.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return buffer.getvalue()


def _finish(axes: Axes, title: str, ticks: Sequence[int]) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("classes")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])  # room for the highest marker
