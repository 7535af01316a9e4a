"""Train, stop, resume and evaluate a small ITA on synthetic scenes: minutes on two CPU cores.

Everything is made below the output folder: the scenes, the checkpoints, the results and pictures of
predictions beside their truth. Every command is printed, so that it can be repeated by hand.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.toy import make_toy_dataset
from ita.errors import UserError
from ita.evaluation import format_table

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/toy/ita_tiny.yaml"
TEST_SET = "toy_val"


def train_net(datasets: Path, *arguments: str) -> None:
    """Run train_net.py as a person would, its output going to the terminal.

    Raises:
        UserError: it failed; it has said why.
    """
    command = ["python", "train_net.py", "--config-file", CONFIG, *arguments]
    print(f"\n$ DETECTRON2_DATASETS={datasets} {shlex.join(command)}", flush=True)
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets)}
    finished = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, env=environment)
    if finished.returncode:
        raise UserError(f"train_net.py failed with exit code {finished.returncode}")


def results_of(run: Path) -> dict[str, Any]:
    """What a run's last evaluation measured on the validation scenes."""
    return json.loads((run / "results.json").read_text(encoding="utf-8"))["results"][TEST_SET]


def demo(output: Path, iterations: int) -> None:
    """Make the scenes, measure the untrained model, train in two goes, print both results."""
    start = time.perf_counter()
    datasets, untrained, run = output / "datasets", output / "untrained", output / "run"
    for folder in (untrained, run):  # of an earlier demo; training would go on from there
        shutil.rmtree(folder, ignore_errors=True)
    make_toy_dataset(datasets / "toy")
    steps = ["SOLVER.STEPS", f"({iterations * 4 // 5},)", "SOLVER.CHECKPOINT_PERIOD", "100000"]
    train_net(datasets, "--eval-only", "OUTPUT_DIR", str(untrained))
    half = ["SOLVER.MAX_ITER", str(iterations // 2), "TEST.EVAL_PERIOD", "0"]
    train_net(datasets, "OUTPUT_DIR", str(run), *steps, *half)
    whole = ["SOLVER.MAX_ITER", str(iterations)]
    train_net(datasets, "--resume", "OUTPUT_DIR", str(run), *steps, *whole)
    before, after = results_of(untrained), results_of(run)
    seconds = time.perf_counter() - start
    print(f"\nOn scenes of another seed than the training ones, after {seconds:.0f} s in all:")
    print(format_table({"before training": before, "after training": after}))
    print(f"mIoU {before['sem_seg']['mIoU']:.1f} -> {after['sem_seg']['mIoU']:.1f}")
    print(
        f"Pictures of predictions beside their truth: {run / 'inference' / TEST_SET / 'pictures'}"
    )


def main() -> int:
    """Parse the command line and run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder to fill")
    parser.add_argument("--iterations", type=int, default=600, help="training steps in all")
    arguments = parser.parse_args()
    try:
        demo(arguments.output.resolve(), arguments.iterations)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
