"""Reading the results of a run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ita.errors import UserError
from ita.reports.tables import DESCRIPTIONS
from ita.structured_files import parse_json

RESULTS_FILE = "results.json"


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a file written by :func:`ita.reports.tables.write_results`.

    Args:
        path: the file, or the folder of a run that contains it.

    Returns:
        {date, run, results}; ``null`` remains None.

    Raises:
        UserError: the file is missing, cannot be read or is not a results file.
    """
    path = Path(path)
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot read {path}: {reason}; give the OUTPUT_DIR of an evaluation"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error})") from error
    if problem := _problem(content):
        raise UserError(f"{path} is not a results file: {problem}; `ita evaluate` writes one")
    return {"date": "", "run": {}, **content}


def _problem(content: Any) -> str:
    """What a results file must have and this content lacks; "" if nothing."""
    if not isinstance(content, Mapping) or not isinstance(content.get("results"), Mapping):
        return 'it has no object "results"'
    if not isinstance(content.get("run", {}), Mapping):
        return '"run" is not an object'
    for name, result in content["results"].items():
        if not isinstance(result, Mapping):
            return f"{name} is not an object"
        for task, metrics in result.items():
            if not isinstance(metrics, Mapping):
                return f"{task} of {name} is not an object"
            if task not in DESCRIPTIONS and not all(map(_is_value, metrics.values())):
                return f"{task} of {name} has a metric that is not a number"
    return ""


def _is_value(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value))
