"""Comparisons of runs as HTML, Markdown and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ita.evaluation.semantic import IOU_PREFIX
from ita.reports.curves import draw_runs
from ita.reports.markdown import escape, pipe_table
from ita.reports.numbers import format_difference, format_number
from ita.reports.pages import render
from ita.reports.run_comparison import ClassRow, Comparison, Row, most_different

# Up to this number of facts in which runs differ, their table is open.
MAX_OPEN_FACTS = 15


@dataclass(frozen=True)
class ComparedSet:
    """What is shown of a data set: metrics, and the classes with the largest gains and losses."""

    name: str
    rows: list[Row]
    gains: list[ClassRow]
    losses: list[ClassRow]


def _compared_sets(comparison: Comparison) -> list[ComparedSet]:
    names = dict.fromkeys(row.dataset for row in comparison.rows)
    return [
        ComparedSet(
            name,
            [row for row in comparison.rows if row.dataset == name],
            *most_different([row for row in comparison.classes if row.dataset == name]),
        )
        for name in names
    ]


def format_comparison_csv(comparison: Comparison) -> str:
    """Format as CSV with full precision: a line per metric and per class.

    Columns: data set, metric, whether the class is seen, values of the runs, differences.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    others = comparison.runs[1:]
    differences = [f"{name} − {comparison.runs[0]}" for name in others]
    writer.writerow(["data set", "metric", "seen", *comparison.runs, *differences])
    lines = [(row, row.metric, "") for row in comparison.rows]
    lines += [(row, IOU_PREFIX + row.metric, row.seen) for row in comparison.classes]
    for row, metric, seen in lines:
        values = [*row.values, *row.differences[1:]]
        writer.writerow([row.dataset, metric, seen, *("" if v is None else v for v in values)])
    return text.getvalue()


def format_comparison_markdown(comparison: Comparison) -> str:
    """Format as Markdown tables, with differences in brackets."""
    parts = ["# Comparison of results"]
    if comparison.warnings:
        parts.append("\n".join(f"- **Not comparable:** {escape(w)}" for w in comparison.warnings))
    rows = [[row.dataset, row.metric, *cells(row)] for row in comparison.rows]
    alignments = ["left", "left", *["right"] * len(comparison.runs)]
    parts.append(pipe_table(["data set", "metric [%]", *comparison.runs], rows, alignments))
    if comparison.facts:
        facts = [[name, *values] for name, values in comparison.facts]
        alignments = ["left"] * (1 + len(comparison.runs))
        parts += ["## Differences between the runs"]
        parts += [pipe_table(["", *comparison.runs], facts, alignments)]
    for compared in _compared_sets(comparison):
        # From the largest gain to the largest loss.
        if classes := [*compared.gains, *reversed(compared.losses)]:
            parts += [f"## Classes of {escape(compared.name)} with the largest differences"]
            parts += [_class_table(classes, comparison.runs)]
    return "\n\n".join(parts) + "\n"


def _class_table(classes: Sequence[ClassRow], runs: Sequence[str]) -> str:
    rows = [[row.metric, row.seen, *cells(row)] for row in classes]
    alignments = ["left", "left", *["right"] * len(runs)]
    return pipe_table(["class, IoU [%]", "seen", *runs], rows, alignments)


def format_comparison_html(comparison: Comparison) -> str:
    """Format as one HTML page that refers to no other file."""
    return render(
        "comparison.html.jinja",
        title="Comparison of results",
        comparison=comparison,
        sets=_compared_sets(comparison),
        curves=Markup(draw_runs(comparison.curves)),  # noqa: S704  a drawing of numbers, which escapes names
        max_open=MAX_OPEN_FACTS,
        cells=cells,
    )


def cells(row: Row) -> list[str]:
    """Values of a row, all but the first with their difference to the first."""
    texts = []
    for position, (value, difference) in enumerate(zip(row.values, row.differences, strict=True)):
        text = format_number(value)
        if position and difference is not None:
            text += f" ({format_difference(difference)})"
        texts.append(text)
    return texts
