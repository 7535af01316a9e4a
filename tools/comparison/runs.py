"""Runs of a comparison: their settings, records and attempts."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from comparison.processes import ROOT, Ended
from comparison.variants import SPLITS, Variant
from ita.config import flatten, load_config
from ita.errors import UserError
from ita.files import write_atomically
from ita.modeling.clip_files import find_weights
from ita.modeling.clip_weights import RANDOM
from ita.toy.dataset import DESCRIPTION

# File in a run's folder with its settings, attempts and cost.
RECORD = "run.json"
# Prefixes of keys without effect on training, and of keys that only name files.
_AT_TEST = (
    "DATASETS.TEST",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.MIN_SIZE_TEST",
    "MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK",
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_",
    "MODEL.MASK_FORMER.TEST.",
    "TEST.",
)
_FILES = ("OUTPUT_DIR", "MODEL.WEIGHTS")
_PACKAGES = ("torch", "detectron2", "open_clip_torch", "timm", "numpy")
_CHECKPOINTS = 5
# Number of log lines of a failed run in the error message.
_ERROR_LINES = 5


@dataclass(frozen=True)
class Setup:
    """Common setup of all runs of a comparison.

    Attributes:
        config_file: base config.
        output: folder of the runs, and of their data in ``datasets``.
        overrides: ``KEY VALUE ...`` for every variant, overridden by the keys of the variant.
        iterations: number of training iterations; None selects the config's.
        split: one of ``SPLITS``.
    """

    config_file: Path
    output: Path
    overrides: tuple[str, ...]
    iterations: int | None
    split: str

    @property
    def datasets(self) -> Path:
        """Folder of the data sets."""
        return self.output / "datasets"

    def keys_of(self, variant: Variant, seed: int | None = None) -> list[str]:
        """All ``KEY VALUE ...`` on top of the base config, for ``ita train``."""
        words = [*self.overrides, *_schedule(self)]
        for key, value in {**variant.overrides, **variant.at_test}.items():
            words += [key, str(value)]
        return words if seed is None else [*words, "SEED", str(seed)]

    def config_of(self, variant: Variant) -> CfgNode:
        """Complete config of a variant, except for the seed.

        Raises:
            UserError: a key or value is invalid.
        """
        return load_config(self.config_file, self.keys_of(variant))


@cache
def _schedule(setup: Setup) -> tuple[str, ...]:
    """Config keys of the number of iterations, with the schedule scaled and checkpoints added."""
    solver = load_config(setup.config_file, setup.overrides).SOLVER
    iterations = setup.iterations or solver.MAX_ITER
    scale = iterations / solver.MAX_ITER
    counts = {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": tuple(round(step * scale) for step in solver.STEPS),
        "SOLVER.WARMUP_ITERS": round(solver.WARMUP_ITERS * scale),
        "SOLVER.CHECKPOINT_PERIOD": max(1, iterations // _CHECKPOINTS),
        "TEST.EVAL_PERIOD": 0,
    }
    return tuple(str(word) for item in counts.items() for word in item)


@dataclass(frozen=True)
class Run:
    """One run of ``ita train``: training with a seed, or evaluation of the trained model.

    Attributes:
        title: title in progress messages.
        folder: output folder.
        options: options of ``ita train``, before its ``KEY VALUE`` pairs.
        keys: ``KEY VALUE`` pairs.
        settings: values that determine the result; other values require another run.
        needs: run that must be finished first, or None.
    """

    title: str
    folder: Path
    options: tuple[str, ...]
    keys: tuple[str, ...]
    settings: Mapping[str, Any]
    needs: "Run | None" = None

    @property
    def log(self) -> Path:
        """File with the output of all attempts."""
        return self.folder / "output.txt"

    def record(self) -> dict[str, Any]:
        """Record of the run; empty before its first attempt.

        Raises:
            UserError: the folder contains a run with other settings, or the record is unreadable.
        """
        path = self.folder / RECORD
        if not path.exists():
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            before = record["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read; remove {self.folder}") from error
        if difference := _difference(before, self.settings):
            raise UserError(
                f"{self.folder} was created with other settings ({difference}); remove it or "
                "choose another --output"
            )
        return record

    def is_finished(self) -> bool:
        """Whether the last attempt succeeded. Raises the errors of ``record``."""
        return bool(self.record().get("finished"))

    def attempt(self, command: Sequence[str], threads: int) -> "Attempt":
        """Record a new attempt that starts or resumes the run.

        Args:
            command: command of ``ita train``, without arguments.
            threads: number of CPU threads.
        """
        record = self.record() or {"title": self.title, "settings": self.settings, "attempts": []}
        resume = ["--resume"] if (self.folder / "last_checkpoint").exists() else []
        words = [*command, *self.options, *resume, "OUTPUT_DIR", str(self.folder), *self.keys]
        record["attempts"].append(
            {"started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": words}
            | describe_environment()
            | {"threads": threads}
        )
        return Attempt(self, record)


class Attempt:
    """A process of a run and its record."""

    def __init__(self, run: Run, record: dict[str, Any]) -> None:
        self._run = run
        self._record = record
        self._write()

    @property
    def command(self) -> list[str]:
        """Command to execute."""
        return self._record["attempts"][-1]["command"]

    def withdraw(self) -> None:
        """Remove the attempt from the record: its process was never started."""
        self._record["attempts"].pop()
        self._write()

    def end(self, ended: Ended) -> None:
        """Record the outcome; remove intermediate checkpoints of a finished run."""
        self._record["attempts"][-1] |= {
            "exit_code": ended.exit_code,
            "seconds": round(ended.seconds, 2),
            "peak_memory_mb": round(ended.peak_memory / 1e6, 1),
        }
        self._record["finished"] = ended.exit_code == 0
        self._write()
        if ended.exit_code == 0:
            for checkpoint in self._run.folder.glob("model_[0-9]*.pth"):
                checkpoint.unlink()

    def _write(self) -> None:
        text = json.dumps(self._record, indent=2, ensure_ascii=False)
        write_atomically(self._run.folder / RECORD, f"{text}\n".encode())


def training_of(setup: Setup, variant: Variant, seed: int) -> Run:
    """Training of a variant with a seed, without evaluation."""
    model = Variant(variant.model, variant.title, variant.overrides)
    settings = {
        key: value
        for key, value in _settings(setup, model, seed).items()
        if not key.startswith((*_AT_TEST, *_FILES))
    }
    return Run(
        f"{variant.model} seed {seed}: training",
        setup.output / variant.model / f"seed{seed}",
        ("--config-file", str(setup.config_file.resolve())),
        (*setup.keys_of(model, seed), "DATASETS.TEST", "()"),
        settings | _inputs(setup, model),
    )


def evaluation_of(setup: Setup, variant: Variant, seed: int) -> Run:
    """Evaluation of a trained variant on the data sets of the split."""
    training = training_of(setup, variant, seed)
    test_sets = SPLITS[setup.split]
    settings = {
        key: value
        for key, value in _settings(setup, variant, seed).items()
        if key.startswith(_AT_TEST)
    }
    weights = training.folder / "model_final.pth"
    return Run(
        f"{variant.name} seed {seed}: evaluation",
        training.folder / "_".join(filter(None, (setup.split, variant.part))),
        (*training.options, "--eval-only"),
        (
            *setup.keys_of(variant, seed),
            *("DATASETS.TEST", repr(test_sets)),
            *("MODEL.WEIGHTS", str(weights)),
        ),
        settings | {"DATASETS.TEST": list(test_sets)},
        training,
    )


def measured(run: Run) -> dict[str, float]:
    """Metrics of a finished evaluation and cost of its training.

    Returns:
        ``data set/task/metric`` → value, without metrics of single classes; also ``seconds`` and
        ``peak_memory_mb`` of the training if all its attempts were measured.
    """
    content = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    numbers = {
        f"{dataset}/{task}/{metric}": float(value)
        for dataset, tasks in content["results"].items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
        if isinstance(value, (int, float)) and "-" not in metric and task != "info"
    }
    attempts = run.needs.record()["attempts"]
    if all("seconds" in attempt for attempt in attempts):
        numbers["seconds"] = sum(attempt["seconds"] for attempt in attempts)
        numbers["peak_memory_mb"] = max(attempt["peak_memory_mb"] for attempt in attempts)
    return numbers


def last_lines(path: Path) -> str:
    """Last lines of a log, indented."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_ERROR_LINES:])


def describe_environment() -> dict[str, Any]:
    """State of the code, package versions and machine."""
    changed = _git("status", "--porcelain", "--", "ita", "tools", "configs", "train_net.py")
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": None if changed is None else bool(changed),
        "versions": _versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _git(*arguments: str) -> str | None:
    """Output of a git command in the repository; None without git or a repository."""
    try:
        result = subprocess.run(  # git as PATH names it
            ["git", *arguments],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _settings(setup: Setup, variant: Variant, seed: int) -> dict[str, Any]:
    """Config of a run by dotted keys, with values as read from JSON."""
    cfg = load_config(setup.config_file, setup.keys_of(variant, seed))
    return dict(flatten(json.loads(json.dumps(yaml.safe_load(cfg.dump())))))


def _inputs(setup: Setup, variant: Variant) -> dict[str, Any]:
    """Inputs of training in addition to the config: the scenes and CLIP's weights."""
    clip = setup.config_of(variant).MODEL.FC_CLIP
    weights = clip.CLIP_PRETRAINED_WEIGHTS
    scenes = setup.datasets / "toy" / DESCRIPTION
    return {
        "scenes": json.loads(scenes.read_text(encoding="utf-8")),
        "CLIP weights": weights
        if weights == RANDOM
        else _digest(find_weights(clip.CLIP_MODEL_NAME, weights)),
    }


@cache
def _digest(path: Path) -> str:
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Description of the first settings that differ; empty if none do."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    listed = [f"{key} {before.get(key)}, now {now.get(key)}" for key in keys[:3]]
    more = [f"{len(keys) - 3} more"] if len(keys) > 3 else []
    return "; ".join(listed + more)
