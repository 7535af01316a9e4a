"""Train, stop, resume and evaluate a small open-vocabulary ITA: minutes on two CPU cores.

Scenes of a toy world are drawn; ITA trains on the seen ones of its classes and is evaluated with
the names of all. Everything is made below the output folder: the scenes, the checkpoints, the
results and pictures of predictions beside their truth. Every command is printed, so that it can be
repeated by hand.
"""

import argparse
import json
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
from ita.evaluation import format_seen_table, format_table
from tools.processes import ROOT, TRAIN_NET, train_net_environment

CONFIG = "configs/toy/ita_tiny.yaml"
TEST_SET = "toy_test_all"
PICTURES = 8


def train_net(datasets: Path, *arguments: str) -> None:
    """Run train_net.py as a person would, its output going to the terminal.

    Raises:
        UserError: it failed; it has said why.
    """
    words = ["--config-file", CONFIG, *arguments]
    shown = shlex.join(["python", *TRAIN_NET[1:], *words])
    print(f"\n$ DETECTRON2_DATASETS={datasets} {shown}", flush=True)
    environment = train_net_environment(datasets)
    finished = subprocess.run([*TRAIN_NET, *words], cwd=ROOT, env=environment)
    if finished.returncode:
        raise UserError(f"train_net.py failed with exit code {finished.returncode}")


def results_of(run: Path) -> dict[str, Any]:
    """What a run's last evaluation measured."""
    return json.loads((run / "results.json").read_text(encoding="utf-8"))["results"][TEST_SET]


def demo(output: Path, iterations: int, test: int) -> None:
    """Draw the scenes, measure the untrained model, train in two goes, print both results."""
    start = time.perf_counter()
    datasets, untrained, run = output / "datasets", output / "untrained", output / "run"
    for folder in (datasets, untrained, run):  # of an earlier demo, perhaps with other scenes
        shutil.rmtree(folder, ignore_errors=True)
    make_toy_dataset(datasets / "toy", test=test)
    steps = ["SOLVER.STEPS", f"({iterations * 4 // 5},)", "SOLVER.CHECKPOINT_PERIOD", "100000"]
    tested = ["DATASETS.TEST", f"('{TEST_SET}',)", "TEST.NUM_PICTURES", str(PICTURES)]
    train_net(datasets, "--eval-only", "OUTPUT_DIR", str(untrained), *tested)
    half = ["SOLVER.MAX_ITER", str(iterations // 2), "TEST.EVAL_PERIOD", "0"]
    train_net(datasets, "OUTPUT_DIR", str(run), *steps, *half, "DATASETS.TEST", "()")
    whole = ["SOLVER.MAX_ITER", str(iterations)]
    train_net(datasets, "--resume", "OUTPUT_DIR", str(run), *steps, *whole, *tested)
    results = {"before training": results_of(untrained), "after training": results_of(run)}
    seconds = time.perf_counter() - start
    print(f"\nOn scenes of another seed than the training ones, after {seconds:.0f} s in all:")
    print(format_table(results))
    print(format_seen_table(results))
    for side in ("seen", "unseen"):
        before, after = (result["sem_seg"][f"mIoU_{side}"] for result in results.values())
        print(f"mIoU over {side} classes {before:.1f} -> {after:.1f}")
    print(
        "Pictures of predictions beside their truth, unseen classes marked in the legend: "
        f"{run / 'inference' / TEST_SET / 'pictures'}"
    )


def main() -> int:
    """Parse the command line and run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder to fill")
    parser.add_argument("--iterations", type=int, default=1200, help="training steps in all")
    parser.add_argument("--test", type=int, default=100, help="test scenes")
    arguments = parser.parse_args()
    try:
        demo(arguments.output.resolve(), arguments.iterations, arguments.test)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
