"""Running ``ita train`` in a process of its own, as a person would."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ita.errors import UserError


def run_training(config: str, datasets: Path, *arguments: str) -> None:
    """Run ``ita train``, its output going to the terminal, after printing the command.

    Args:
        config: the config file.
        datasets: the folder for DETECTRON2_DATASETS.
        arguments: further words of the command line.

    Raises:
        UserError: the command failed; it has printed the reason.
    """
    words = ["train", "--config-file", config, *arguments]
    sys.stdout.write(f"\n$ DETECTRON2_DATASETS={datasets} {shlex.join(['ita', *words])}\n")
    sys.stdout.flush()
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets)}
    finished = subprocess.run([sys.executable, "-m", "ita", *words], env=environment, check=False)
    if finished.returncode:
        raise UserError(f"ita train failed with exit code {finished.returncode}")


def read_results(run: Path) -> dict[str, Any]:
    """Data set -> results of the last evaluation of a run's folder."""
    return json.loads((run / "results.json").read_text(encoding="utf-8"))["results"]
