"""The structure that the docs promise: one import direction, no two files of one name."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Rooms from top to bottom: a room imports from those below it and from itself.
ROOMS = (
    "cli",
    "web",
    "toy",
    "export",
    "media",
    "predictor",
    "engine",
    "runtime",
    "reports",
    "segmenter",
    "meta_arch",
    "build",
    "evaluation",
    "data",
    "modeling",
    "config",
    "ancestor_keys",
    "installing",
    "submission",
    "results",
    "classes",
    "progress",
    "structured_files",
    "files",
    "signals",
    "extras",
    "shortages",
    "errors",
)
MODULES = sorted((ROOT / "ita").glob("**/*.py"))


def room(path):
    return path.relative_to(ROOT / "ita").with_suffix("").parts[0]


def imported_rooms(path):
    """Rooms that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "ita" and rest:
                yield rest.partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT / "ita")))
def test_imports_run_downwards(path):
    if path.name in ("__init__.py", "__main__.py") and path.parent.name == "ita":
        return  # the public interface, which imports lazily
    place = ROOMS.index(room(path))
    upwards = [other for other in imported_rooms(path) if ROOMS.index(other) < place]
    assert not upwards


def test_no_two_modules_have_one_name():
    names = Counter(path.name for path in MODULES if not path.name.startswith("__"))
    subcommands = {path.name for path in (ROOT / "ita" / "cli").glob("*.py")}
    assert [n for n, count in names.items() if count > 1 and n not in subcommands] == []


def test_nothing_outside_the_package_is_imported_by_it():
    outside = re.compile(
        r"^\s*(?:from|import) (?:tools|tests|datasets|benchmarking|comparison|train_net)\b", re.M
    )
    assert [p for p in MODULES if outside.search(p.read_text(encoding="utf-8"))] == []


def test_no_module_search_path_is_changed():
    files = [p for d in ("ita", "tools", "datasets") for p in (ROOT / d).glob("**/*.py")]
    files.append(ROOT / "train_net.py")
    assert [p for p in files if "sys.path" in p.read_text(encoding="utf-8")] == []


def test_every_design_section_exists():
    headings = re.findall(r"^## (\d+)\.", (ROOT / "docs/design.md").read_text("utf-8"), re.M)
    for path in MODULES:
        cited = re.findall(r"design section (\d+)", path.read_text(encoding="utf-8"))
        assert set(cited) <= set(headings), path
