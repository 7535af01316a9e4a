"""The rows of a measurement: one for each combination of the listed options."""

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", "float16")
# Names that are encoded before a pass: none, those in files, those in the memory of the process.
COLD, DISK, WARM = CACHES = ("cold", "disk", "warm")
PASSES = ("forward", "backward")
TASKS = ("semantic", "panoptic", "instance")
CEILINGS = ("matrix product", "copy")
PARTS = (*CEILINGS, "image tower", "feature encoder", "decoder", "whole image")

# Listed option -> its text in the title of a row.
_TITLES = {
    "size": "{0} × {0}",
    "batch": "batch {}",
    "classes": "classes {}",
    "precision": "{}",
    "names": "names {}",
    "cache": "{} cache",
    "passes": "{}",
    "workers": "workers {}",
    "task": "{}",
    "part": "{}",
}
# Options of the driver, which a measuring process does not need.
_DRIVER = ("repeats", "warm_up", "output", "compare")


@dataclass(frozen=True)
class Case:
    """A row: a work and its settings, plain values that a process can receive as JSON."""

    title: str
    settings: dict[str, Any]


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """Return the rows of a command line, in the order of its lists."""
    settings = {k: v for k, v in vars(arguments).items() if k not in _DRIVER}
    listed = [key for key in settings if key in _TITLES]
    cases = []
    for values in itertools.product(*(settings[key] for key in listed)):
        chosen = dict(zip(listed, values, strict=True))
        cases.append(Case(_title(chosen), {**settings, **chosen}))
    return list({case.title: case for case in cases}.values())


def _title(chosen: dict[str, Any]) -> str:
    """Name a row by its settings; ceilings do not depend on the model and its input."""
    if chosen.get("part") == "copy":
        return "copy"
    if chosen.get("part") == "matrix product":
        return f"matrix product, {chosen['precision']}"
    texts = [_TITLES[key].format(value) for key, value in chosen.items()]
    return ", ".join(texts)


def located(case: Case, tree: Path) -> Case:
    """Make paths absolute unless they name a file of the checkout ``tree``, where it runs."""
    changed = {
        key: str(Path(case.settings[key]).resolve())
        for key in ("config_file", "weights", "image")
        if case.settings.get(key) and not (tree / case.settings[key]).exists()
    }
    return Case(case.title, {**case.settings, **changed})
