"""Measuring processes, seen from the driver."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarking.cases import Case, located
from ita.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@dataclass(frozen=True)
class Variant:
    """One side of a comparison.

    Attributes:
        name: its name in tables.
        tree: the checkout whose package runs.
        operators: "own", or "plain" for the plain definitions.
    """

    name: str
    tree: Path = ROOT
    operators: str = "own"


class ChildError(Exception):
    """A measuring process failed or was killed; the message is one line."""


class Child:
    """A process that has prepared a work; leave its context to end it.

    Args:
        case: the work.
        tree: the checkout whose package runs.
        folder: temporary folder for its files.

    Raises:
        UserError: the settings are unusable.
        ChildError: the process failed or was killed.
    """

    def __init__(self, case: Case, tree: Path, folder: Path) -> None:
        settings = located(case, tree).settings
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarking.worker", json.dumps(settings)],
            cwd=tree,
            env=_environment(tree, folder, settings["threads"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.facts = self._read()
        except BaseException:
            self.close()
            raise
        if Path(self.facts["package"]) != (tree / "ita").resolve():
            self.close()
            raise UserError(f"the package in {self.facts['package']} runs instead of {tree}'s")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def time(self, operators: str) -> float:
        """Seconds of one pass."""
        return self._ask(f"time {operators}")["seconds"]

    def memory(self) -> dict[str, int]:
        """Bytes: ``peak`` and, unless the work starts processes, ``above`` that before a pass."""
        return self._ask("memory")

    def _ask(self, request: str) -> dict[str, Any]:
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it answered, or its exit code, says why
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            reason = "killed, probably out of memory" if code < 0 else f"exit code {code}"
            raise ChildError(f"the process ended ({reason})")
        content = json.loads(line)
        if "error" in content:
            raise (UserError if content["of_user"] else ChildError)(content["error"])
        return content


def _environment(tree: Path, folder: Path, threads: int | None) -> Mapping[str, str]:
    paths = [str(tree), str(TOOLS), os.environ.get("PYTHONPATH", "")]
    changed = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BENCHMARK_FOLDER": str(folder),
        "ITA_CACHE_DIR": "",  # no features of earlier processes
    }
    return os.environ | changed | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
