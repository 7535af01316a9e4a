"""The scripts of datasets/, and ``ita datasets prepare``, which they call."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ita.cli import main

SCRIPTS = Path(__file__).parents[2] / "datasets"
# Several scripts after each other in one process, which imports what they need once.
RUN_ALL = """
import runpy, sys
scripts, sys.argv[1:] = sys.argv[1:], ["--workers", "2"]
for sys.argv[0] in scripts:
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
"""


def start(name: str, *arguments: str) -> subprocess.Popen:
    """Start the script of a set as people do."""
    return _start(str(_script(name)), *arguments)


def start_all(names: Sequence[str], root: Path) -> subprocess.Popen:
    """Start one script after another."""
    return _start("-c", RUN_ALL, *(str(_script(n)) for n in names), DETECTRON2_DATASETS=str(root))


def _script(name: str) -> Path:
    return SCRIPTS / f"prepare_{name}.py"


def _start(*arguments: str, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        start_new_session=True,
    )


def files(root: Path) -> dict[str, int]:
    """Path below a root -> time of change of all files and linked folders below it."""
    return {
        os.path.join(os.path.relpath(folder, root), name): os.lstat(
            os.path.join(folder, name)
        ).st_mtime_ns
        for folder, folders, names in os.walk(root)
        for name in [*names, *(f for f in folders if os.path.islink(os.path.join(folder, f)))]
    }


@pytest.fixture
def prepare(capsys):
    """Run a script's work in this process: set, root, options -> exit code, lines, error lines."""

    def run(name: str, root: Path, *options: str, workers: int = 1):
        arguments = ["--root", str(root), "--workers", str(workers), *options]
        code = main(["datasets", "prepare", name.replace("_", "-"), *arguments])
        printed = capsys.readouterr()
        # The progress bar is written to the same place, in lines of its own.
        errors = [line for line in printed.err.splitlines() if line and "images/s" not in line]
        return code, printed.out.splitlines(), errors

    return run
