"""Results as tables for the terminal and as JSON."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np

from ita.evaluation.semantic import class_key
from ita.files import write_atomically

# Columns of the table: title, task, metric.
COLUMNS = (
    ("mIoU", "sem_seg", "mIoU"),
    ("seen", "sem_seg", "mIoU_seen"),
    ("unseen", "sem_seg", "mIoU_unseen"),
    ("harmonic", "sem_seg", "mIoU_harmonic"),
    ("fwIoU", "sem_seg", "fwIoU"),
    ("mACC", "sem_seg", "mACC"),
    ("pACC", "sem_seg", "pACC"),
    ("PQ", "panoptic_seg", "PQ"),
    ("SQ", "panoptic_seg", "SQ"),
    ("RQ", "panoptic_seg", "RQ"),
    ("mask PQ", "panoptic_seg", "mask_PQ"),
    ("AP", "segm", "AP"),
    ("AP50", "segm", "AP50"),
)
# Columns of the table of seen and unseen classes, and its rows with their suffixes of metrics.
SEEN_COLUMNS = (
    ("mIoU", "sem_seg", "mIoU"),
    ("class accuracy", "panoptic_seg", "class_accuracy"),
    ("of things", "panoptic_seg", "class_accuracy_th"),
    ("hit rate", "dominant", "hit_rate"),
)
CLASS_SUBSETS = (("all", ""), ("seen", "_seen"), ("unseen", "_unseen"))
Results = Mapping[str, Mapping[str, Any]]


def format_table(results: Mapping[str, Results]) -> str:
    """Format a table with a row per data set: class list, images, and all available metrics.

    Args:
        results: data set name → result of ``build_evaluator(...).evaluate()``.
    """
    columns = [c for c in COLUMNS if any(_has(r, *c[1:]) for r in results.values())]
    rows = [["data set", "class list", "images", *(title for title, _, _ in columns)]]
    for name, result in results.items():
        info = result.get("info", {})
        row = [name, os.path.basename(info.get("class_list", "")) or "-"]
        row.append(str(info.get("images", "-")))
        row += [_percent(result.get(task, {}).get(metric)) for _, task, metric in columns]
        rows.append(row)
    return _align(rows, left=2)


def format_seen_table(results: Mapping[str, Results]) -> str:
    """Format a table of metrics over all, seen and unseen classes of each data set.

    Columns are the mIoU, the share of matched segments with the correct class, the same for things
    only, and the share of classes that are dominant, each if available for any data set.

    Args:
        results: data set name → result of ``build_evaluator(...).evaluate()``.

    Returns:
        The table, or "" if no metric is available.
    """
    numbers = {
        (name, subset): [result.get(task, {}).get(key + suffix) for _, task, key in SEEN_COLUMNS]
        for name, result in results.items()
        for subset, suffix in CLASS_SUBSETS
    }
    used = [any(map(_is_number, column)) for column in zip(*numbers.values(), strict=True)]
    titles = [title for title, _, _ in SEEN_COLUMNS]
    rows = [["data set", "classes", *compress(titles, used)]]
    for row, values in numbers.items():
        if any(map(_is_number, values)):
            rows.append([*row, *map(_percent, compress(values, used))])
    return _align(rows, left=2) if len(rows) > 1 else ""


def format_class_table(class_names: Iterable[str], result: Results, columns: int = 3) -> str:
    """Format a table of the IoU of every class that occurs, by class id from top to bottom.

    Args:
        class_names: names of the class list.
        result: results of one data set.
        columns: number of classes side by side.
    """
    metrics = result.get("sem_seg", {})
    ious = [(i, n, metrics.get(class_key(i, n), math.nan)) for i, n in enumerate(class_names)]
    cells = [[str(i), _shorten(n), _percent(iou)] for i, n, iou in ious if not math.isnan(iou)]
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
        if task != "info" and not metric.startswith("IoU-") and math.isfinite(value)
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


def _is_number(value: float | None) -> bool:
    """Whether the value is a number: it may be NaN, or None when read from JSON."""
    return value is not None and not math.isnan(value)


def _percent(value: float | None) -> str:
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
