"""Check a machine for training: run the GPU tests, then measure steps and inference.

    python tools/gpu_check.py                     about ten minutes on a GPU
    python tools/gpu_check.py --output gpu.md     also write the tables to a file
    python tools/gpu_check.py --device cpu --size 640 --steps 2 --skip-tests

The model is that of --config-file with random CLIP weights and random text features, so that no
download is needed; neither affects time or memory. Each row runs in a process of its own.
Exit code 0 if every test passed and every row was measured, else 1.
"""

import argparse
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ita.cli.types import positive_int

ROOT = Path(__file__).resolve().parents[1]
MAIN_CONFIG = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
WARM_UP = 2
# Last lines of pytest's output, shown if a test did not pass.
SHOWN_LINES = 30


@dataclass(frozen=True)
class Row:
    """A measurement: work and precision; only settings that a child process can receive."""

    work: str
    precision: str
    amp: bool = False
    tf32: bool = False

    @property
    def trains(self) -> bool:
        return self.work == "training step"


@dataclass(frozen=True)
class Figures:
    """Median seconds of a pass over the batch, and peak memory of the process or GPU in GB."""

    seconds: float
    gigabytes: float
    images: int


def rows(device: str) -> list[Row]:
    """Rows of the table; TF32 and float16 exist on GPUs only."""
    low = "float16" if device.startswith("cuda") else "bfloat16"
    works = ("training step", "semantic inference", "semantic, panoptic and instance inference")
    made = []
    for work in works:
        made.append(Row(work, "float32"))
        if device.startswith("cuda"):
            made.append(Row(work, "TF32", tf32=True))
        made.append(Row(work, f"{low} autocast", amp=True, tf32=device.startswith("cuda")))
    return made


def main() -> int:
    """Run the check of the command line."""
    options = parse_arguments()
    check_config(options.config_file)
    sections = [f"# {describe_machine(options.device)}"]
    show(sections[0])
    failed = False
    if not options.skip_tests:
        table, failed = run_tests()
        sections.append("## Tests\n\n" + table)
        show(sections[-1])
    table, incomplete = measure_all(options)
    sections.append(f"## {options.config_file}, {options.size} × {options.size}\n\n{table}")
    show(sections[-1])
    if options.output:
        options.output.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return int(failed or incomplete)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default=MAIN_CONFIG, metavar="FILE", help="default: %(default)s")
    add("--device", default="cuda", help="default: %(default)s")
    add("--size", type=positive_int, default=1024, help="side of the images (default: %(default)s)")
    add(
        "--batch",
        type=positive_int,
        default=2,
        help="images of a training step (default: %(default)s)",
    )
    add(
        "--steps",
        type=positive_int,
        default=10,
        help="timed passes of each row (default: %(default)s)",
    )
    add("--skip-tests", action="store_true", help="measure only")
    add("--only", default="", metavar="TEXT", help="measure only work with this text in its name")
    add("--output", type=Path, metavar="FILE", help="also write the tables here, as Markdown")
    return parser.parse_args()


def check_config(file: str) -> None:
    """End in one line if the config is unusable, not once for each row."""
    from ita.config import load_config
    from ita.errors import UserError

    try:
        load_config(ROOT / file)
    except UserError as error:
        sys.exit(f"error: {error}")


def show(text: str) -> None:
    """Write to the terminal at once."""
    sys.stdout.write(text + "\n\n")
    sys.stdout.flush()


def describe_machine(device: str) -> str:
    """Name the device and the versions that determine the figures."""
    import torch

    name = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            sys.exit("error: no GPU is visible; pass --device cpu to measure the CPU")
        total = torch.cuda.get_device_properties(device).total_memory / 1e9
        name = f"{torch.cuda.get_device_name(device)}, {total:.0f} GB"
    return f"{name}; PyTorch {torch.__version__}, Python {platform.python_version()}"


def run_tests() -> tuple[str, bool]:
    """Run the tests marked gpu; return their table, and whether one failed or was skipped."""
    from tabulate import tabulate

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}"]
        process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        cases = list(test_cases(report)) if report.is_file() else []
    table = tabulate(cases, ("test", "result", "seconds"), tablefmt="github", floatfmt=".1f")
    failed = not cases or any(result != "passed" for _, result, _ in cases)
    if failed:
        ending = "\n".join(process.stdout.splitlines()[-SHOWN_LINES:])
        table += f"\n\n```\n{ending}\n```"
    return table, failed


def test_cases(report: Path) -> Iterator[tuple[str, str, float]]:
    """Yield name, result and seconds of each test of a JUnit report."""
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  written by pytest just now
        problems = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        name = f"{case.get('classname')}::{case.get('name')}"
        yield name, problems[0] if problems else "passed", float(case.get("time", "nan"))


def measure_all(options: argparse.Namespace) -> tuple[str, bool]:
    """Measure every row; return the table, and whether a row is missing."""
    from tabulate import tabulate

    cells, incomplete = [], False
    for row in rows(options.device):
        if options.only not in row.work:
            continue
        # A process for each row, since the peak memory of a process never falls.
        spawn = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                figures = pool.submit(measure, row, options).result()
        except Exception as error:  # out of memory, or a killed process
            incomplete = True
            reason = str(error).partition("\n")[0][:80] or type(error).__name__
            cells.append((row.work, row.precision, "", reason, "", ""))
            continue
        rate = figures.images / figures.seconds
        cells.append(
            (row.work, row.precision, figures.images, figures.seconds, rate, figures.gigabytes)
        )
    headers = ("work", "precision", "images", "seconds", "images/s", "peak GB")
    formats = ("", "", "", ".3f", ".2f", ".1f")
    return tabulate(cells, headers, tablefmt="github", floatfmt=formats), incomplete


def measure(row: Row, options: argparse.Namespace) -> Figures:
    """Measure a row in this process."""
    import torch

    from benchmarking.models import build_training_step, load_settings, seconds_of
    from ita.engine.hooks import peak_memory
    from ita.engine.precision import tf32
    from ita.meta_arch import build_model

    device = torch.device(options.device)
    amp = ["SOLVER.AMP.ENABLED", str(row.amp)]
    cfg = load_settings(ROOT / options.config_file, options.device, amp)
    torch.manual_seed(0)
    model = build_model(cfg)
    if row.trains:
        work = build_training_step(cfg, model, size=options.size, batch=options.batch)
    else:
        work = inference(cfg, model, row, options)
    with tf32(row.tf32, device):
        for _ in range(min(WARM_UP, options.steps)):
            work()
        times = [seconds_of(work, device) for _ in range(options.steps)]
    images = options.batch if row.trains else 1
    return Figures(statistics.median(times), peak_memory(device) / 1e9, images)


def inference(cfg: Any, model: Any, row: Row, options: argparse.Namespace) -> Callable[[], object]:
    """Return a function that segments an image into the classes of A-150."""
    import torch

    from benchmarking.models import build_segmenter, random_record
    from ita.classes import read_class_list
    from ita.engine.precision import matmul_dtype

    device = torch.device(options.device)
    dtype = matmul_dtype(row.amp, cfg.SOLVER.AMP.DTYPE, device)
    every = "panoptic" in row.work
    ade150 = read_class_list("ade150")
    segmenter = build_segmenter(cfg, model, ade150, panoptic=every, instance=every)
    record = random_record(options.size)

    def segment() -> object:
        with torch.autocast(device.type, dtype, enabled=row.amp):
            return segmenter([record])

    return segment


if __name__ == "__main__":
    sys.exit(main())
