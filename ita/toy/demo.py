"""The demo: train, stop, resume and evaluate a small open-vocabulary ITA on the CPU."""

import shlex
import shutil
import time
from pathlib import Path

from ita.errors import UserError
from ita.files import write_atomically
from ita.reports.run_report import REPORT_FILE
from ita.reports.tables import format_table
from ita.toy.commands import read_results, run_training
from ita.toy.dataset import make_toy_dataset

CONFIG = "configs/toy/ita_tiny.yaml"
TEST_SET = "toy_test_all"
PICTURES = 4
# File of a folder that an earlier demo has written and a later one may replace.
MARKER = ".ita-demo"


def demo(output: Path, iterations: int, test: int) -> str:
    """Draw the scenes, evaluate the untrained model, train in two runs, evaluate again.

    Args:
        output: folder for scenes, checkpoints, results and pictures; those of an earlier demo are
            replaced.
        iterations: total number of training iterations.
        test: number of test scenes.

    Returns:
        Tables of both results and the paths of pictures and report, for printing.

    Raises:
        UserError: a command failed, or the folder has other content or cannot be written.
    """
    start = time.perf_counter()
    datasets, untrained, run = output / "datasets", output / "untrained", output / "run"
    _claim(output)
    for folder in (datasets, untrained, run):
        shutil.rmtree(folder, ignore_errors=True)
    make_toy_dataset(datasets / "toy", test=test)
    steps = ["SOLVER.STEPS", f"({iterations * 4 // 5},)", "SOLVER.CHECKPOINT_PERIOD", "100000"]
    tested = ["DATASETS.TEST", f"('{TEST_SET}',)", "TEST.NUM_PICTURES", str(PICTURES)]
    run_training(CONFIG, datasets, "--eval-only", "OUTPUT_DIR", str(untrained), *tested)
    half = ["SOLVER.MAX_ITER", str(iterations // 2), "TEST.EVAL_PERIOD", "0"]
    run_training(CONFIG, datasets, "OUTPUT_DIR", str(run), *steps, *half, "DATASETS.TEST", "()")
    whole = ["SOLVER.MAX_ITER", str(iterations)]
    run_training(CONFIG, datasets, "--resume", "OUTPUT_DIR", str(run), *steps, *whole, *tested)
    results = {
        "before training": read_results(untrained)[TEST_SET],
        "after training": read_results(run)[TEST_SET],
    }
    lines = [
        f"\nResults on held-out scenes, after {time.perf_counter() - start:.0f} s in total:",
        format_table(results),
    ]
    for side in ("seen", "unseen"):
        before, after = (result["sem_seg"][f"mIoU_{side}"] for result in results.values())
        lines.append(f"mIoU over {side} classes {before:.1f} -> {after:.1f}")
    pictures = run / "inference" / TEST_SET / "pictures"
    lines.append(f"Pictures of predictions and ground truth: {pictures}")
    lines.append(f"Report with all numbers, curves and pictures: {run / REPORT_FILE}")
    page = f"ita web --config-file {CONFIG} --weights {shlex.quote(str(run / 'model_final.pth'))}"
    lines.append(f"Segment scenes with this model in the browser: {page}")
    return "\n".join(lines)


def _claim(output: Path) -> None:
    """Mark an empty or new folder as the demo's; refuse any other, as the demo deletes in it."""
    marker = output / MARKER
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise UserError(f"{output} has other content; choose another folder with --output")
    write_atomically(marker, b"")
