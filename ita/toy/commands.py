"""Running ``ita train`` in a separate process, as from the command line."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ita.errors import UserError


def run_training(config: str, datasets: Path, *arguments: str) -> None:
    """Print the ``ita train`` command and run it, with its output on the terminal.

    Args:
        config: config file.
        datasets: folder for DETECTRON2_DATASETS.
        arguments: further command-line arguments.

    Raises:
        UserError: the command failed and has printed the reason.
    """
    words = ["train", "--config-file", config, *arguments]
    sys.stdout.write(f"\n$ DETECTRON2_DATASETS={datasets} {shlex.join(['ita', *words])}\n")
    sys.stdout.flush()
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets)}
    finished = subprocess.run([sys.executable, "-m", "ita", *words], env=environment, check=False)
    if finished.returncode:
        raise UserError(f"ita train failed with exit code {finished.returncode}")


def read_results(run: Path) -> dict[str, Any]:
    """Results of the last evaluation in a run folder, by data set."""
    return json.loads((run / "results.json").read_text(encoding="utf-8"))["results"]
