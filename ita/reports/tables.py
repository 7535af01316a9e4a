"""Results as tables for the terminal and as JSON."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ita.classes import ClassList
from ita.evaluation.semantic import IOU_PREFIX, class_keys
from ita.files import write_atomically

# Columns of the table: title, task, metric.
COLUMNS = (
    ("mIoU", "sem_seg", "mIoU"),
    ("harmonic", "sem_seg", "mIoU_harmonic"),
    ("fwIoU", "sem_seg", "fwIoU"),
    ("mACC", "sem_seg", "mACC"),
    ("pACC", "sem_seg", "pACC"),
    ("PQ", "panoptic_seg", "PQ"),
    ("SQ", "panoptic_seg", "SQ"),
    ("RQ", "panoptic_seg", "RQ"),
    ("mask PQ", "panoptic_seg", "mask_PQ"),
    ("class acc.", "panoptic_seg", "class_accuracy"),
    ("of things", "panoptic_seg", "class_accuracy_th"),
    ("hit rate", "dominant", "hit_rate"),
    ("AP", "segm", "AP"),
    ("AP50", "segm", "AP50"),
)
# Rows of a data set: title, number of classes, suffix of metrics.
SUBSETS: tuple[tuple[str, Callable[[Mapping[str, Any]], int], str], ...] = (
    ("all", lambda info: info["classes"], ""),
    ("seen", lambda info: info["classes_seen"], "_seen"),
    ("unseen", lambda info: info["classes"] - info["classes_seen"], "_unseen"),
)
# Entries of a data set without numbers to plot.
DESCRIPTIONS = ("info", "confusions", "pictures")
Results = Mapping[str, Mapping[str, Any]]


def format_table(results: Mapping[str, Results]) -> str:
    """Format a table of all available metrics: over all, seen and unseen classes of each data set.

    A line with the name, images and class lists of a data set precedes its rows. Metrics that do
    not distinguish seen and unseen classes are in the first row only; "-" is a missing number.

    Args:
        results: data set name → result of ``build_evaluator(...).evaluate()``.
    """
    columns = [c for c in COLUMNS if any(_has(r, *c[1:]) for r in results.values())]
    rows = [["classes", "", *(title for title, _, _ in columns)]]
    headings = {}
    for name, result in results.items():
        headings[len(rows)] = _heading(name, result)
        rows += _subset_rows(result, columns)
    header, line, *body = _align(rows, left=1).splitlines()
    for position, heading in reversed(headings.items()):
        body.insert(position - 1, heading)
    return "\n".join([header, line, *body])


def _heading(name: str, result: Results) -> str:
    info = result.get("info", {})
    facts = []
    if "images" in info:
        facts.append(f"{info['images']:,} images")
    for key, title in (("class_list", "class list"), ("train_class_list", "training class list")):
        if info.get(key):
            facts.append(f"{title} {os.path.basename(info[key])}")
    return f"{name}: {', '.join(facts)}" if facts else name


def _subset_rows(result: Results, columns: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    """Rows of all, seen and unseen classes, without the last two if they have no metric."""
    rows = []
    info = result.get("info", {})
    for title, count, suffix in SUBSETS:
        # Blank where a metric has no such subset.
        absent = "" if suffix else math.nan
        values = [result.get(task, {}).get(metric + suffix, absent) for _, task, metric in columns]
        if suffix and not any(map(_is_number, values)):
            continue
        number = str(count(info)) if "classes_seen" in info else ""
        rows.append([f"  {title}", number, *(v if v == "" else _percent(v) for v in values)])
    return rows


def format_class_table(class_list: ClassList, result: Results, columns: int = 3) -> str:
    """Format a table of the IoU of every class that occurs, by label id from top to bottom.

    Args:
        class_list: class list in use.
        result: results of one data set.
        columns: number of classes side by side.
    """
    metrics = result.get("sem_seg", {})
    ious = [metrics.get(key, math.nan) for key in class_keys(class_list)]
    classes = zip(class_list.label_ids, class_list.names, ious, strict=True)
    cells = [[str(i), _shorten(n), _percent(iou)] for i, n, iou in classes if not math.isnan(iou)]
    height = math.ceil(len(cells) / columns)
    header = ["id", "class", "IoU"] * min(columns, len(cells))
    rows = [list(chain.from_iterable(cells[r::height])) for r in range(height)]
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    return _align([header, *rows], left=0, left_titles=("class",)) if cells else "no class occurs"


def scalars(result: Results) -> dict[str, float]:
    """Flatten the results of one data set to {"task/metric": value}, for TensorBoard.

    Per-class values and values that are not finite are omitted.
    """
    return {
        f"{task}/{metric}": value
        for task, metrics in result.items()
        for metric, value in metrics.items()
        if task not in DESCRIPTIONS and not metric.startswith(IOU_PREFIX) and math.isfinite(value)
    }


def write_results(
    results: Mapping[str, Results], path: str | Path, *, run: Mapping[str, Any] | None = None
) -> None:
    """Write results as JSON, atomically; NaN becomes null.

    Args:
        results: data set name → result of ``build_evaluator(...).evaluate()``.
        path: path of the JSON file.
        run: description of the run, such as config, weights and iteration.

    Raises:
        UserError: the file cannot be written.
    """
    content = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "run": dict(run or {}),
        "results": results,
    }
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def _plain(value: Any) -> Any:
    """Convert a value to JSON types: None for NaN and infinity, Python numbers for numpy's."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _has(result: Results, task: str, metric: str) -> bool:
    return _is_number(result.get(task, {}).get(metric))


def _is_number(value: Any) -> bool:
    """Whether the value is a number: it may be NaN, "" or, when read from JSON, None."""
    return value not in (None, "") and not math.isnan(value)


def _percent(value: Any) -> str:
    return f"{value:.2f}" if _is_number(value) else "-"


def _shorten(text: str, width: int = 24) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _align(rows: list[list[str]], left: int, left_titles: tuple[str, ...] = ()) -> str:
    """Align rows under their header, the first ``left`` columns and ``left_titles`` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            to_left = i < left or rows[0][i] in left_titles
            cells.append(cell.ljust(width) if to_left else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)
