"""Results of several runs side by side, with the differences to the first run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ita.config import flatten
from ita.errors import UserError
from ita.evaluation.semantic import IOU_PREFIX
from ita.reports.curves import Curve, curves_so_far
from ita.reports.numbers import MISSING
from ita.reports.result_files import read_results
from ita.reports.tables import COLUMNS, SUBSETS
from ita.structured_files import read_yaml

CONFIG_FILE = "config.yaml"
# Facts of a run whose differences explain those of its results.
FACTS = ("weights", "iteration", "precision", "train_class_list")
# Config keys that differ between all runs.
IRRELEVANT_KEYS = ("OUTPUT_DIR", "MODEL.WEIGHTS")
# Smaller differences of a class say nothing, in percentage points.
MIN_DIFFERENCE = 0.1
# Number of classes with the largest gains, and of those with the largest losses.
MAX_CLASSES = 10


@dataclass(frozen=True)
class ComparedRun:
    """A run: its name in the comparison, its folder, results and settings of its config."""

    name: str
    folder: Path
    content: Mapping[str, Any]
    settings: Mapping[str, Any]

    def value(self, dataset: str, task: str, metric: str) -> float | None:
        """Return a metric; None if the run has none."""
        return self.content["results"].get(dataset, {}).get(task, {}).get(metric)

    def info(self, dataset: str) -> Mapping[str, Any]:
        """Return the facts about the evaluation of a data set."""
        return self.content["results"][dataset].get("info", {})

    def classes(self, dataset: str) -> list[str]:
        """Return label ids and names of the classes, of semantic results."""
        keys = self.content["results"].get(dataset, {}).get("sem_seg", {})
        return [key.removeprefix(IOU_PREFIX) for key in keys if key.startswith(IOU_PREFIX)]


@dataclass(frozen=True)
class Row:
    """A metric of a data set.

    Attributes:
        dataset: name of the data set.
        metric: title of the metric, with the subset of classes.
        values: value of each run in percent; None without one.
    """

    dataset: str
    metric: str
    values: list[float | None]

    @property
    def differences(self) -> list[float | None]:
        """Difference of each run to the first; None if one of the two has no value."""
        first = self.values[0]
        return [None if first is None or v is None else v - first for v in self.values]

    @property
    def largest_difference(self) -> float:
        """Difference to the first run of the run that differs most; 0 without one."""
        known = [difference for difference in self.differences if difference is not None]
        return max(known, key=abs, default=0.0)


@dataclass(frozen=True)
class ClassRow(Row):
    """The IoU of a class; ``metric`` is its label id and name.

    Attributes:
        seen: whether it is seen in training: "yes", "no", "in some runs", or "" if the results do
            not tell.
    """

    seen: str


@dataclass(frozen=True)
class Comparison:
    """The compared runs.

    Attributes:
        runs: names; the first is the one that the others are compared with.
        rows: metrics that a run has.
        classes: classes that occur.
        warnings: reasons why numbers are not comparable, such as different class lists.
        facts: name and value of each run, of the facts in which they differ.
        curves: name of the run -> curves of its training.
    """

    runs: list[str]
    rows: list[Row]
    classes: list[ClassRow]
    warnings: list[str]
    facts: list[tuple[str, list[str]]]
    curves: Mapping[str, Mapping[str, Curve]]


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Compare the results of runs.

    Args:
        paths: at least one folder of a run, or its results.json.

    Raises:
        UserError: a file is missing or damaged.
    """
    names = _short_names([str(path) for path in paths])
    runs = [
        ComparedRun(name, folder, read_results(path), _read_settings(folder))
        for name, path, folder in zip(names, paths, map(_folder, paths), strict=True)
    ]
    datasets = list(dict.fromkeys(name for run in runs for name in run.content["results"]))
    return Comparison(
        runs=names,
        rows=[row for dataset in datasets for row in _rows(dataset, runs)],
        classes=[row for dataset in datasets for row in _class_rows(dataset, runs)],
        warnings=[text for dataset in datasets for text in _warnings(dataset, runs)],
        facts=list(_differing_facts(runs)),
        curves={run.name: curves_so_far(run.folder, run.content) for run in runs},
    )


def most_different(rows: Sequence[ClassRow]) -> tuple[list[ClassRow], list[ClassRow]]:
    """Select the classes that gain and that lose most against the first run.

    Args:
        rows: classes of a data set.

    Returns:
        At most ``MAX_CLASSES`` by falling gain, and by falling loss. Each class counts by the run
        that differs most.
    """
    ranked = sorted(rows, key=lambda row: -row.largest_difference)
    gains = [row for row in ranked if row.largest_difference >= MIN_DIFFERENCE]
    losses = [row for row in reversed(ranked) if row.largest_difference <= -MIN_DIFFERENCE]
    return gains[:MAX_CLASSES], losses[:MAX_CLASSES]


def _folder(path: str | Path) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _read_settings(folder: Path) -> dict[str, Any]:
    """Settings by dotted key; {} without a readable config, which results do not need."""
    try:
        content = read_yaml(folder / CONFIG_FILE)
    except UserError:
        return {}
    return dict(flatten(content)) if isinstance(content, Mapping) else {}


def _short_names(paths: Sequence[str | Path]) -> list[str]:
    """Names of the folders, or whole paths where these repeat."""
    names = [_folder(path).resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _differing_facts(runs: Sequence[ComparedRun]) -> Iterator[tuple[str, list[str]]]:
    """Facts and settings in which runs differ; "–" where a run has none."""
    for key in FACTS:
        values = [str(run.content["run"].get(key) or MISSING) for run in runs]
        if len(set(values)) > 1:
            yield key.replace("_", " "), values
    readable = [run for run in runs if run.settings]
    if readable and len(readable) < len(runs):
        yield CONFIG_FILE, ["read" if run.settings else "not readable" for run in runs]
    for key in dict.fromkeys(key for run in readable for key in run.settings):
        # A run without a readable config differs from the others in nothing known.
        known = {str(run.settings.get(key, MISSING)) for run in readable}
        if len(known) > 1 and key not in IRRELEVANT_KEYS:
            yield key, [str(run.settings.get(key, MISSING)) for run in runs]


def _rows(dataset: str, runs: Sequence[ComparedRun]) -> Iterator[Row]:
    for title, task, metric in COLUMNS:
        for subset, _, suffix in SUBSETS:
            values = [run.value(dataset, task, metric + suffix) for run in runs]
            if any(value is not None for value in values):
                yield Row(dataset, f"{title}, {subset}" if suffix else title, values)


def _class_rows(dataset: str, runs: Sequence[ComparedRun]) -> Iterator[ClassRow]:
    labels = {run.name: set(run.classes(dataset)) for run in runs}
    for label in dict.fromkeys(label for run in runs for label in run.classes(dataset)):
        values = [run.value(dataset, "sem_seg", IOU_PREFIX + label) for run in runs]
        if any(value is not None for value in values):
            lists = [run.info(dataset).get("seen") for run in runs if label in labels[run.name]]
            flags = {label in seen for seen in lists if seen is not None}
            yield ClassRow(dataset, label, values, _describe_flags(flags))


def _describe_flags(flags: set[bool]) -> str:
    if len(flags) == 2:
        return "in some runs"
    return {True: "yes", False: "no"}[flags.pop()] if flags else ""


def _warnings(dataset: str, runs: Sequence[ComparedRun]) -> Iterator[str]:
    """Differences to the first run that has results of the data set."""
    present = [run for run in runs if dataset in run.content["results"]]
    absent = [run.name for run in runs if run not in present]
    if absent:
        yield f"{dataset}: no results of {', '.join(absent)}"
    first, *others = present
    for other in others:
        for key, title in (
            ("class_list", "class list"),
            ("train_class_list", "training class list"),
            ("classes", "number of classes"),
            ("images", "number of images"),
        ):
            one, two = (run.info(dataset).get(key) for run in (first, other))
            if one != two:
                yield f"{dataset}: the {title} of {other.name} is {two}, that of {first.name} {one}"
        if first.info(dataset).get("class_list") == other.info(dataset).get("class_list"):
            differing = set(first.classes(dataset)) ^ set(other.classes(dataset))
            if differing:
                yield (
                    f"{dataset}: the class lists of {other.name} and {first.name} have one name, "
                    f"but not the same classes ({len(differing)} differ)"
                )
