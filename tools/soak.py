"""Train and evaluate for an hour; measure whether memory, open files and step time stay flat.

python tools/soak.py --minutes 60 --output output/soak
python tools/soak.py --minutes 60 --output output/soak KEY VALUE ...

The training runs as a command of its own on the toy world, with an evaluation every 200 iterations
and a checkpoint every 100, and is stopped by SIGTERM at the end. Every ten seconds its processes
are measured. Writes soak.csv and soak.svg to the folder and prints what has changed between the
second and the last quarter of the time; the first one fills caches.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import psutil

from ita.signals import STOPPED
from ita.toy.dataset import make_toy_dataset

CONFIG = "configs/toy/ita_tiny.yaml"
KEYS = {
    "SOLVER.MAX_ITER": 1_000_000,
    "SOLVER.STEPS": "()",
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "SOLVER.CHECKPOINT_KEEP_LAST": 3,
    "TEST.EVAL_PERIOD": 200,
    "TEST.BEST_METRIC": "toy_val/sem_seg/mIoU",
}
SECONDS_BETWEEN = 10.0


@dataclass(frozen=True)
class Sample:
    """What the processes of a training take at a moment.

    Attributes:
        minute: minutes since the first sample.
        memory: resident memory in MB, with pages that processes share counted in each; what
            other programs share of the libraries does not change it.
        files: open files, sockets and pipes.
        threads: threads.
        processes: number of processes.
    """

    minute: float
    memory: float
    files: int
    threads: int
    processes: int


@dataclass(frozen=True)
class Step:
    """An iteration in the log: when it was, and the median seconds of those before it."""

    minute: float
    seconds: float


def measure(process: psutil.Process, start: float) -> Sample | None:
    """Measure a process with all below it; None if one ends meanwhile."""
    try:
        family = [process, *process.children(recursive=True)]
        return Sample(
            minute=(time.monotonic() - start) / 60,
            memory=sum(member.memory_info().rss for member in family) / 1e6,
            files=sum(member.num_fds() for member in family),
            threads=sum(member.num_threads() for member in family),
            processes=len(family),
        )
    except psutil.Error:
        return None


def soak(output: Path, minutes: float, words: Sequence[str]) -> Iterator[Sample]:
    """Run the training; yield samples until it is stopped.

    Raises:
        SystemExit: it ended otherwise than by the signal.
    """
    make_toy_dataset(output / "datasets" / "toy", test=1)
    keys = [str(word) for pair in KEYS.items() for word in pair]
    command = [sys.executable, "-m", "ita", "train", "--overwrite", "--config-file", CONFIG]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(output / "datasets")}
    with subprocess.Popen(
        [*command, *keys, "OUTPUT_DIR", str(output / "run"), *words],
        env=environment,
        stdout=subprocess.DEVNULL,
    ) as training:
        start = time.monotonic()
        while training.poll() is None and time.monotonic() - start < minutes * 60:
            time.sleep(SECONDS_BETWEEN)
            if sample := measure(psutil.Process(training.pid), start):
                yield sample
        training.send_signal(signal.SIGTERM)
    if training.returncode != STOPPED:
        sys.exit(f"the training ended with exit code {training.returncode}, not {STOPPED}")


def read_steps(metrics: Path, minutes: float) -> list[Step]:
    """Read the median step time of every 20 iterations, spread over the time of the run."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    timed = [line for line in lines if "time" in line]
    last = timed[-1]["iteration"]
    return [Step(minutes * line["iteration"] / last, line["time"]) for line in timed]


def quarters(items: Sequence[Sample] | Sequence[Step], name: str) -> tuple[float, float]:
    """Medians of a value in the second and in the last quarter."""
    values = [getattr(item, name) for item in items]
    quarter = max(1, len(values) // 4)
    return median(values[quarter : 2 * quarter] or values), median(values[-quarter:])


def describe(samples: Sequence[Sample], steps: Sequence[Step]) -> str:
    """Format what has changed."""
    rows = [
        ("memory", *quarters(samples, "memory"), "MB"),
        ("open files", *quarters(samples, "files"), ""),
        ("threads", *quarters(samples, "threads"), ""),
        ("step", *quarters(steps, "seconds"), "s"),
    ]
    return "".join(
        f"{name:<11}{before:>10.4g} -> {after:<8.4g} {unit:<3} {after / before - 1:+.1%}\n"
        for name, before, after, unit in rows
    )


def draw(samples: Sequence[Sample], steps: Sequence[Step], path: Path) -> None:
    """Draw memory, open files and step time over the minutes."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "ita", "svg.fonttype": "none"})
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(7, 5), layout="constrained")
    minutes = [sample.minute for sample in samples]
    axes[0].plot(minutes, [sample.memory / 1000 for sample in samples])
    axes[0].set_ylabel("memory [GB]")
    axes[1].plot(minutes, [sample.files for sample in samples])
    axes[1].set_ylabel("open files")
    axes[2].plot([step.minute for step in steps], [step.seconds for step in steps])
    axes[2].set_ylabel("step [s]")
    axes[2].set_xlabel("minutes")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--output", type=Path, default=Path("output/soak"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    samples = []
    with open(options.output / "soak.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Sample)])
        table.writeheader()
        for sample in soak(options.output, options.minutes, options.opts):
            samples.append(sample)
            table.writerow(asdict(sample))
            file.flush()
    steps = read_steps(options.output / "run" / "metrics.json", options.minutes)
    draw(samples, steps, options.output / "soak.svg")
    sys.stdout.write(describe(samples, steps))


if __name__ == "__main__":
    main()
