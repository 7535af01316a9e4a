"""Kill or stop a random process of a training under torchrun, many times, and print a table.

python -m tests.engine.kill_restarts --kills 20
python -m tests.engine.kill_restarts --kills 5 --signal STOP --timeout 20
python -m tests.engine.kill_restarts --kills 5 --launcher spawn --timeout 20

Each row is a training of its own: two processes on the CPU, one of which gets the signal at a
random moment between its start and the last iteration. Under torchrun the training must end by
itself, with the weights of an undisturbed run; under Detectron2's launcher with one line.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from ita.toy.dataset import make_toy_dataset
from tests.engine.tiny import CONFIG, REPOSITORY, overrides

PROCESSES = 2
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
# Ends of a training: equal weights, a line that says why it ended, and the rest.
RECOVERED, OTHER_WEIGHTS, ENDED, HANGS = "same weights", "OTHER WEIGHTS", "ended", "HANGS"


@dataclass(frozen=True)
class Outcome:
    """What became of a training: ``end`` is one of the constants above, or an exit code."""

    rank: int
    moment: float
    reached: str
    end: str
    code: int | None
    seconds: float
    resumed: str
    line: str


@dataclass
class Training:
    """A short training of two processes with its own folder, data below ``root``."""

    folder: Path
    root: Path
    launcher: str = "torchrun"
    timeout: int = 60
    iterations: int = 150

    def start(self) -> subprocess.Popen:
        keys = overrides(
            OUTPUT_DIR=self.folder,
            SOLVER__MAX_ITER=self.iterations,
            SOLVER__CHECKPOINT_PERIOD=10,
            DATASETS__TEST=(),
        )
        words = ["train", "--config-file", str(CONFIG)]
        command = [sys.executable, "-m", "ita"]
        if self.launcher == "torchrun":
            command = [*TORCHRUN, f"--nproc-per-node={PROCESSES}", "--max-restarts=3", "-m", "ita"]
        else:
            words += ["--num-gpus", str(PROCESSES), "--dist-url", "auto"]
        if self.timeout:
            words += ["--timeout", str(self.timeout)]
        self.folder.mkdir(parents=True)
        with open(self.log, "w") as log:
            return subprocess.Popen(
                [*command, *words, *keys],
                cwd=REPOSITORY,
                env={**os.environ, "DETECTRON2_DATASETS": str(self.root), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        return self.folder / "terminal.txt"

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / "model_final.pth", weights_only=True)["model"]


def workers(process: subprocess.Popen) -> list[int]:
    """Process ids of the ranks, in the order of ranks."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = []
    for child in map(int, path.read_text().split()):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"resource_tracker" not in command and command:
            found.append(child)
    return found


def end_group(process: subprocess.Popen) -> None:
    """Kill whatever is left of a training."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def disturb(training: Training, number: int, moment: float, rank: int, limit: float) -> Outcome:
    """Run a training, send a signal to a rank at a moment, and wait for its end, up to a limit."""
    process = training.start()
    begin = time.monotonic()
    while len(found := workers(process)) < PROCESSES or time.monotonic() - begin < moment:
        if process.poll() is not None:
            break
        time.sleep(0.02)
    before = training.log.read_text()
    if process.poll() is None:
        os.kill(found[rank], number)
    sent = time.monotonic()
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        code = None
    end_group(process)
    seconds = time.monotonic() - sent
    return describe(training, rank, moment, before, code, seconds)


def describe(
    training: Training, rank: int, moment: float, before: str, code: int | None, seconds: float
) -> Outcome:
    text = training.log.read_text()
    names = sorted(p.name for p in training.folder.glob("model_*.pth"))
    after = text[len(before) :].splitlines()
    resumed = [line for line in after if "Resuming at" in line or "Training from" in line]
    errors = [line for line in after if line.startswith("error:")]
    end = HANGS if code is None else ENDED
    if code == 0 and "model_final.pth" in names:
        end = "final"
    steps = "training" if "Training from" in before else "starting"
    return Outcome(
        rank=rank,
        moment=moment,
        reached=steps,
        end=end,
        code=code,
        seconds=seconds,
        resumed=resumed[-1].rpartition("]: ")[2] if resumed else "-",
        line=errors[-1] if errors else "-",
    )


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=20)
    add("--signal", default="KILL", choices=("KILL", "STOP", "SEGV"))
    add("--launcher", default="torchrun", choices=("torchrun", "spawn"))
    add("--timeout", type=int, default=60)
    add("--limit", type=float, default=180, help="seconds after which a training counts as hanging")
    add("--seed", type=int, default=0)
    add("--keep", default="")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    folder = Path(args.keep or tempfile.mkdtemp(prefix="kills"))
    make_toy_dataset(folder / "toy", train=6, val=5, test=1, size=64)
    whole = Training(folder / "whole", folder, args.launcher, args.timeout)
    start = time.monotonic()
    if whole.start().wait():
        sys.exit(whole.log.read_text())
    duration = time.monotonic() - start
    print(f"undisturbed: {duration:.0f} s", flush=True)
    counts: Counter[str] = Counter()
    for number in range(args.kills):
        training = Training(folder / f"{number:03d}", folder, args.launcher, args.timeout)
        rank, moment = draw.randrange(PROCESSES), draw.uniform(0, duration)
        outcome = disturb(training, getattr(signal, f"SIG{args.signal}"), moment, rank, args.limit)
        end = outcome.end
        if end == "final":
            end = RECOVERED if same(training.weights, whole.weights) else OTHER_WEIGHTS
        counts[end] += 1
        print(
            f"{number:3d} rank {rank} at {moment:5.1f} s ({outcome.reached}): {end}, "
            f"exit {outcome.code}, after {outcome.seconds:.0f} s; {outcome.resumed}; "
            f"{outcome.line}",
            flush=True,
        )
    print(", ".join(f"{count} {end}" for end, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
