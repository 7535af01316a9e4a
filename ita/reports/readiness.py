"""Tables of checked data sets: files, problems and remedies."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from tabulate import tabulate

from ita.data.checking import Report

MAX_PROBLEMS_LISTED = 10
HEADERS = ("data set", "download", "prepared", "images", "annotations", "classes found", "")


def format_readiness(reports: Sequence[Report]) -> str:
    """Format a table with a row per data set."""
    return tabulate([_cells(report) for report in reports], HEADERS)


def format_problems(reports: Sequence[Report]) -> str:
    """Format a paragraph per data set with problems or notes."""
    paragraphs = [lines for report in reports if (lines := _describe(report))]
    return "".join("\n" + "\n".join(lines) + "\n" for lines in paragraphs)


def _cells(report: Report) -> tuple[str, ...]:
    row = report.row
    images = f"{report.num_images:,}" + (f" of {row.num_images:,}" if row.num_images else "")
    found = report.annotations
    listed = ", ".join(kind if found[kind] else f"no {kind}" for kind in found)
    annotations = listed if any(found.values()) else "none"
    classes = f"{len(report.classes)} in {report.num_read:,} read" if report.num_read else ""
    result = "NOT READY" if report.problems else "ready"
    return (row.name, report.download, report.prepared, images, annotations, classes, result)


def _describe(report: Report) -> list[str]:
    """Lines on a data set: its problems, each group followed by its remedy, and notes."""
    pairs = list(zip(report.problems, report.remedies, strict=True))
    lines = []
    for remedy, group in groupby(pairs[:MAX_PROBLEMS_LISTED], key=itemgetter(1)):
        lines += [f"  {problem}" for problem, _ in group]
        lines.append(f"  -> {remedy}")
    if len(pairs) > MAX_PROBLEMS_LISTED:
        lines.append(f"  and {len(pairs) - MAX_PROBLEMS_LISTED:,} more problems")
    lines += [f"  note: {note}" for note in report.notes]
    return [f"{report.row.name}:", *lines] if lines else []
