"""Tables of checked data sets: files, problems and remedies."""

from collections.abc import Sequence

from tabulate import tabulate

from ita.data.checking import Report

MAX_PROBLEMS_LISTED = 10
HEADERS = ("data set", "download", "prepared", "images", "annotations", "classes seen", "")


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
    seen = f"{len(report.classes)} in {report.num_read:,} read" if report.num_read else ""
    prepared = {True: "yes", False: "no", None: ""}[report.prepared]
    result = "NOT READY" if report.problems else "ready"
    return (row.name, report.download, prepared, images, annotations, seen, result)


def _describe(report: Report) -> list[str]:
    lines = [f"  {problem}" for problem in report.problems[:MAX_PROBLEMS_LISTED]]
    if len(report.problems) > len(lines):
        lines.append(f"  and {len(report.problems) - len(lines):,} more")
    if report.problems:
        lines.append(f"  -> {report.remedy}")
    lines += [f"  note: {note}" for note in report.notes]
    return [f"{report.row.name}:", *lines] if lines else []
