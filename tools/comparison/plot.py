"""Plot of a comparison: seen and unseen classes side by side, one point per seed."""

import io

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from comparison.summary import SEEN, UNSEEN, Column, Comparison

# Colors of the color-blind-safe Okabe-Ito palette. Titles are short, since long variant names leave
# little room.
PANELS = ((SEEN, "seen classes", "#0072B2"), (UNSEEN, "unseen classes", "#D55E00"))
# 8 inches at 200 dpi: sharp at a page width of 800 pixels, where 1 point is 1.4 pixels.
WIDTH, DPI = 8.0, 200
_ROW, _MARGIN = 0.55, 1.1


def draw_plot(comparison: Comparison) -> bytes:
    """Draw the plot as a PNG with a width of 1,600 pixels."""
    variants = list(comparison.titles)
    with pyplot.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(
            1, 2, sharey=True, figsize=(WIDTH, _MARGIN + _ROW * len(variants)), layout="constrained"
        )
        for panel, (column, title, color) in zip(axes, PANELS, strict=True):
            _draw_panel(panel, comparison, column, color)
            panel.set_title(title, fontsize=12)
        axes[0].set_yticks(range(len(variants)), comparison.titles.values())
        axes[0].set_ylim(len(variants) - 0.5, -0.6)
        figure.supxlabel(
            "mIoU in %: a dot for each seed, a bar and the number for their mean", fontsize=10
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=DPI, metadata={"Software": None})
        pyplot.close(figure)
    return buffer.getvalue()


def _draw_panel(panel: Axes, comparison: Comparison, column: Column, color: str) -> None:
    maximum = 1.0
    for row, variant in enumerate(comparison.titles):
        panel.axhline(row, color="0.9", zorder=0)
        values = list(comparison.values(variant, column.key).values())
        if not values:
            continue
        maximum = max(maximum, *values)
        mean = comparison.summary(variant, column.key).mean
        panel.plot(values, [row] * len(values), "o", color=color, alpha=0.55, markersize=7)
        panel.plot([mean], [row], "|", color="black", markersize=18, markeredgewidth=2)
        panel.annotate(f"{mean:.1f}", (mean, row), (0, 11), textcoords="offset points", ha="center")
    panel.set_xlim(0, maximum * 1.08)
    panel.tick_params(axis="y", length=0)
