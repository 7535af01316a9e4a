"""What a fault happens to: scenes, a run's folder, and commands as processes of their own."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ita.engine.checkpoint import read_checkpoint
from ita.errors import UserError
from ita.files import PARTIAL_SUFFIX
from tests.engine.tiny import CONFIG, overrides
from tests.faults.process import Command

# Training of a second: two iterations with a checkpoint after each, and no evaluation.
SHORT = {"SOLVER__MAX_ITER": 2, "SOLVER__CHECKPOINT_PERIOD": 1, "DATASETS__TEST": ()}
# Training without an end, without checkpoints before it.
LONG = {"SOLVER__MAX_ITER": 100_000, "SOLVER__CHECKPOINT_PERIOD": 0}
# Short evaluations.
EVALUATED = {"DATASETS__TEST": ("toy_val",), "TEST__REPORT": False, "TEST__NUM_PICTURES": 0}
# Files of a run that describe it.
REPORTED = ("nonfinite_*.json",)


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Attributes:
        code: exit code; negative for a signal.
        output: what it wrote to stdout.
        errors: what it wrote to stderr.
        left: what is left on disk, in words; see :func:`describe`.
    """

    code: int
    output: str
    errors: str
    left: str


@dataclass
class World:
    """A folder for one fault.

    Attributes:
        folder: empty at first.
        scenes: folder for DETECTRON2_DATASETS, with a few toy scenes; not to be changed.
    """

    folder: Path
    scenes: Path
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def run(self) -> Path:
        """OUTPUT_DIR of trainings."""
        return self.folder / "run"

    def train(self, *words: object, **keys: Any) -> Outcome:
        """Run ``ita train`` on a tiny config to its end."""
        return self.finish(self.start("train", *words, **keys))

    def ita(self, *words: object, **environment: str) -> Outcome:
        """Run ``ita`` with these words to its end."""
        return self.finish(self.command(*words, **environment))

    def start(
        self,
        subcommand: str,
        *words: object,
        variables: Mapping[str, object] | None = None,
        **keys: Any,
    ) -> Command:
        """Start ``ita train`` or ``ita evaluate`` on a tiny config, with environment variables."""
        keys = {"OUTPUT_DIR": self.run, **SHORT, **keys}
        environment = {name: str(value) for name, value in (variables or {}).items()}
        words = (subcommand, *words, "--config-file", CONFIG, *overrides(**keys))
        return self.command(*words, **environment)

    def command(self, *words: object, **environment: str) -> Command:
        """Start ``ita`` with these words."""
        prefix = self.folder / f"command{next(self._numbers)}"
        variables = {"DETECTRON2_DATASETS": str(self.scenes), **environment}
        return Command(["ita", *map(str, words)], variables, prefix)

    def finish(self, command: Command, folder: Path | None = None) -> Outcome:
        """Wait for the end of a command."""
        code = command.wait()
        return Outcome(code, command.output, command.errors, describe(folder or self.run))


def steps_saved(run: Path) -> int:
    """Iterations of the only checkpoint of a run."""
    (path,) = run.glob("model_*.pth")
    return int(path.stem.removeprefix("model_")) + 1


def describe(folder: Path) -> str:
    """Describe a run's folder: iterations of whole checkpoints, damaged ones, what it tells."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return "nothing"
    finished, damaged = set(), []
    for path in sorted(folder.glob("model_*.pth")):
        try:
            finished.add(read_checkpoint(path)["iteration"] + 1)
        except UserError:
            damaged.append(path.name)
    parts = []
    if finished:
        parts.append(f"checkpoints of iterations {', '.join(map(str, sorted(finished)))}")
    parts += [f"damaged {name}" for name in damaged]
    parts += [path.name for pattern in REPORTED for path in sorted(folder.glob(pattern))]
    for path in folder.rglob("*"):
        if path.name.endswith(PARTIAL_SUFFIX):
            parts.append("incomplete files")
            break
    return "; ".join(parts) or "a log"


def iterations(outcome: Outcome) -> str:
    """First and last iteration of a training, as its log tells, such as "2 to 4"; "" for none."""
    match = re.search(r"Training from iteration (\d+ to \d+)", outcome.output)
    return match.group(1) if match else ""
