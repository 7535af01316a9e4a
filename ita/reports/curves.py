"""Curves of training runs, from Detectron2's metrics.json, as SVG."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ita.structured_files import parse_json

LOSS = "total_loss"
MIOU = "/sem_seg/mIoU"
# Of a chart, in inches.
WIDTH, HEIGHT = 6.5, 2.6
# Characters of a line in the legend.
LEGEND_WIDTH = 70
# Okabe and Ito's colors, which the color-blind can distinguish, without yellow; with dashes, which
# also tell gray lines apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WITHOUT_LEGEND = "#404040"
DASHES = ("-", "--", "-.", ":")
STYLES: tuple[dict[str, Any], ...] = tuple(
    {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]}
    for i in range(len(COLORS) * len(DASHES))
)
# Text stays text, names are not formulas, and the same curves give the same file.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ita",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
WITHOUT_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

Curve = dict[int, float]  # finished iterations -> value


def read_curves(path: Path) -> dict[str, Curve]:
    """Read the loss and the mIoU of each data set.

    Args:
        path: metrics.json of Detectron2, one JSON object per line. Lines that are incomplete, as
            the last one of a stopped run may be, are ignored; a resumed run's lines replace those
            of the same iteration.

    Returns:
        ``LOSS`` or ``DATASET/sem_seg/mIoU`` -> curve; {} if there is no such file.
    """
    curves: dict[str, Curve] = {}
    if not path.is_file():
        return curves
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            for name, iteration, value in _points(line):
                curves.setdefault(name, {})[iteration] = value
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def _points(line: str) -> list[tuple[str, int, float]]:
    """Points of one line: curve, finished iterations, value."""
    try:
        entry = parse_json(line)
    except ValueError:
        return []
    if not isinstance(entry, dict) or not isinstance(entry.get("iteration"), int):
        return []
    return [
        (name, entry["iteration"] + 1, value)
        for name, value in entry.items()
        if (name == LOSS or name.endswith(MIOU)) and _is_finite(value)
    ]


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def curves_so_far(folder: Path, content: Mapping[str, Any]) -> dict[str, Curve]:
    """Read the curves of a run, with its last evaluation, which metrics.json may not have yet.

    Args:
        folder: folder of the run.
        content: its results, see :func:`ita.reports.result_files.read_results`.

    Returns:
        See :func:`read_curves`; {} for an evaluation without training.
    """
    curves = read_curves(folder / "metrics.json")
    iteration = content["run"].get("iteration")
    if curves and iteration is not None:
        for name, result in content["results"].items():
            miou = result.get("sem_seg", {}).get("mIoU")
            if miou is not None:
                # Detectron2 stores the evaluation after training one iteration later.
                others = {
                    i: v for i, v in curves.get(name + MIOU, {}).items() if i != iteration + 1
                }
                curves[name + MIOU] = dict(sorted({**others, iteration: miou}.items()))
    return curves


@dataclass(frozen=True)
class Chart:
    """Curves on one pair of axes, by the name in the legend."""

    label: str
    marker: str
    lines: Mapping[str, Curve]


def draw_curves(curves: Mapping[str, Curve]) -> str:
    """Draw the loss and, below it, the mIoU, as an ``<svg>`` element; "" without curves."""
    losses = {name: curve for name, curve in curves.items() if name == LOSS}
    mious = {n.removesuffix(MIOU): curve for n, curve in curves.items() if n.endswith(MIOU)}
    charts = (Chart("loss", "", losses), Chart("mIoU [%]", "o", mious))
    return _draw([chart for chart in charts if chart.lines], list(mious), legend_over=-1)


def draw_runs(runs: Mapping[str, Mapping[str, Curve]]) -> str:
    """Draw the curves of several runs over each other, a chart for the loss and for each mIoU.

    Args:
        runs: name of the run -> its curves; a run without curves is left out.

    Returns:
        An ``<svg>`` element; "" without curves.
    """
    names = [name for name, curves in runs.items() if curves]
    scalars = sorted({scalar for curves in runs.values() for scalar in curves}, key=_place)
    charts = [
        Chart(
            "loss" if scalar == LOSS else f"mIoU [%], {scalar.removesuffix(MIOU)}",
            "" if scalar == LOSS else "o",
            {name: runs[name][scalar] for name in names if scalar in runs[name]},
        )
        for scalar in scalars
    ]
    return _draw(charts, names, legend_over=0)


def _place(scalar: str) -> tuple[bool, str]:
    """Sort the loss before the data sets."""
    return scalar != LOSS, scalar


def _draw(charts: Sequence[Chart], names: Sequence[str], legend_over: int) -> str:
    """Draw charts below each other, with a legend of ``names`` over one of them.

    Lines of one name have one style in all charts.
    """
    if not charts:
        return ""
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(charts)), layout="constrained")
        grid = figure.subplots(len(charts), squeeze=False, sharex=True)
        handles: dict[str, Line2D] = {}
        for axes, chart in zip(grid[:, 0], charts, strict=True):
            handles |= _draw_chart(axes, chart, styles)
        grid[-1, 0].set_xlabel("iteration")
        if len(names) > 1:
            _draw_legend(grid[legend_over, 0], {name: handles[name] for name in names})
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=WITHOUT_METADATA)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _draw_chart(
    axes: Axes, chart: Chart, styles: Mapping[str, Mapping[str, Any]]
) -> dict[str, Line2D]:
    lines = {}
    for name, curve in chart.lines.items():
        style = styles.get(name, {"color": WITHOUT_LEGEND})
        x, y = list(curve), list(curve.values())
        (lines[name],) = axes.plot(x, y, marker=chart.marker, markersize=4, **style)
    axes.set_title(chart.label, loc="left", fontsize="medium")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return lines


def _draw_legend(axes: Axes, handles: Mapping[str, Line2D]) -> None:
    """Draw a legend over the title of a chart."""
    axes.legend(
        # A legend leaves out names that begin with an underscore, unless given explicitly.
        list(handles.values()),
        [textwrap.fill(name, LEGEND_WIDTH) for name in handles],
        loc="lower left",
        bbox_to_anchor=(0, 1.12),
        borderaxespad=0,
        fontsize="small",
        handlelength=3.5,
        frameon=False,
    )
