"""Curves of a training run, from Detectron2's metrics.json, as SVG."""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LOSS = "total_loss"
MIOU = "/sem_seg/mIoU"
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
        entry = json.loads(line)
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


def draw_curves(curves: Mapping[str, Curve]) -> str:
    """Draw the loss and, below it, the mIoU, as an ``<svg>`` element; "" without curves."""
    losses = {name: curve for name, curve in curves.items() if name == LOSS}
    mious = {n.removesuffix(MIOU): curve for n, curve in curves.items() if n.endswith(MIOU)}
    panels = [p for p in ((losses, "loss", ""), (mious, "mIoU [%]", "o")) if p[0]]
    if not panels:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 2.6 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), squeeze=False, sharex=True)
        for axes, (lines, label, marker) in zip(grid[:, 0], panels, strict=True):
            _draw_panel(axes, lines, label, marker)
        grid[-1, 0].set_xlabel("iteration")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=WITHOUT_METADATA)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _draw_panel(axes: Axes, lines: Mapping[str, Curve], label: str, marker: str) -> None:
    for name, curve in lines.items():
        axes.plot(list(curve), list(curve.values()), marker=marker, markersize=4, label=name)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if len(lines) > 1:
        # A legend leaves out names that begin with an underscore, unless given explicitly.
        axes.legend(axes.get_lines(), list(lines), fontsize="small")
