"""Results of several runs side by side, with the differences to the first run."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ita.config import flatten
from ita.evaluation.semantic import IOU_PREFIX
from ita.reports.markdown import escape, pipe_table
from ita.reports.numbers import MISSING, format_difference, format_number
from ita.reports.pages import render
from ita.reports.result_files import read_results
from ita.reports.tables import COLUMNS, SUBSETS

# Facts of a run whose differences explain those of its results.
FACTS = ("weights", "iteration", "precision", "train_class_list")
# Config keys that differ between all runs.
IRRELEVANT_KEYS = ("OUTPUT_DIR", "MODEL.WEIGHTS")


@dataclass(frozen=True)
class ComparedRun:
    """A run: its name in the comparison, the content of its results file, its config's settings."""

    name: str
    content: Mapping[str, Any]
    settings: Mapping[str, Any]

    def value(self, dataset: str, task: str, metric: str) -> float | None:
        """Return a metric; None if the run has none."""
        return self.content["results"].get(dataset, {}).get(task, {}).get(metric)

    def info(self, dataset: str) -> Mapping[str, Any]:
        """Return the facts about the evaluation of a data set."""
        return self.content["results"][dataset].get("info", {})

    def classes(self, dataset: str) -> set[str]:
        """Return label ids and names of the classes, of semantic results."""
        return {
            k
            for k in self.content["results"][dataset].get("sem_seg", {})
            if k.startswith(IOU_PREFIX)
        }


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


@dataclass(frozen=True)
class Comparison:
    """The compared runs.

    Attributes:
        runs: names; the first is the one that the others are compared with.
        rows: metrics that a run has.
        warnings: reasons why numbers are not comparable, such as different class lists.
        facts: name and value of each run, of the facts in which they differ.
    """

    runs: list[str]
    rows: list[Row]
    warnings: list[str]
    facts: list[tuple[str, list[str]]]


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Compare the results of runs.

    Args:
        paths: at least one folder of a run, or its results.json.

    Raises:
        UserError: a file is missing or damaged.
    """
    names = _short_names([str(path) for path in paths])
    runs = [
        ComparedRun(name, read_results(path), _read_settings(folder))
        for name, path, folder in zip(names, paths, map(_folder, paths), strict=True)
    ]
    datasets = list(dict.fromkeys(name for run in runs for name in run.content["results"]))
    return Comparison(
        runs=names,
        rows=[row for dataset in datasets for row in _rows(dataset, runs)],
        warnings=[text for dataset in datasets for text in _warnings(dataset, runs)],
        facts=[fact for fact in _facts(runs) if len(set(fact[1])) > 1],
    )


def _folder(path: str | Path) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _read_settings(folder: Path) -> dict[str, Any]:
    """Settings by dotted key; {} without a readable config, which results do not need."""
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(flatten(content)) if isinstance(content, Mapping) else {}


def _short_names(paths: Sequence[str | Path]) -> list[str]:
    """Names of the folders, or whole paths where these repeat."""
    names = [_folder(path).resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _facts(runs: Sequence[ComparedRun]) -> Iterator[tuple[str, list[str]]]:
    """Facts and settings of all runs; "–" where a run has none."""
    for key in FACTS:
        yield key.replace("_", " "), [str(run.content["run"].get(key) or MISSING) for run in runs]
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        if key not in IRRELEVANT_KEYS:
            yield key, [str(run.settings.get(key, MISSING)) for run in runs]


def _rows(dataset: str, runs: Sequence[ComparedRun]) -> Iterator[Row]:
    for title, task, metric in COLUMNS:
        for subset, _, suffix in SUBSETS:
            values = [run.value(dataset, task, metric + suffix) for run in runs]
            if any(value is not None for value in values):
                yield Row(dataset, f"{title}, {subset}" if suffix else title, values)


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
            differing = first.classes(dataset) ^ other.classes(dataset)
            if differing:
                yield (
                    f"{dataset}: the class lists of {other.name} and {first.name} have one name, "
                    f"but not the same classes ({len(differing)} differ)"
                )


def format_comparison_csv(comparison: Comparison) -> str:
    """Format as CSV with full precision: a line per metric, a column per run, then differences."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    others = comparison.runs[1:]
    differences = [f"{name} − {comparison.runs[0]}" for name in others]
    writer.writerow(["data set", "metric", *comparison.runs, *differences])
    for row in comparison.rows:
        values = [*row.values, *row.differences[1:]]
        writer.writerow([row.dataset, row.metric, *("" if v is None else v for v in values)])
    return text.getvalue()


def format_comparison_markdown(comparison: Comparison) -> str:
    """Format as Markdown tables, with differences in brackets."""
    parts = ["# Comparison of results"]
    if comparison.warnings:
        parts.append("\n".join(f"- **Not comparable:** {escape(w)}" for w in comparison.warnings))
    rows = [[row.dataset, row.metric, *cells(row)] for row in comparison.rows]
    alignments = ["left", "left", *["right"] * len(comparison.runs)]
    parts.append(pipe_table(["data set", "metric [%]", *comparison.runs], rows, alignments))
    if comparison.facts:
        facts = [[name, *values] for name, values in comparison.facts]
        alignments = ["left"] * (1 + len(comparison.runs))
        parts += ["## Differences between the runs"]
        parts += [pipe_table(["", *comparison.runs], facts, alignments)]
    return "\n\n".join(parts) + "\n"


def format_comparison_html(comparison: Comparison) -> str:
    """Format as one HTML page that refers to no other file."""
    return render(
        "comparison.html.jinja",
        title="Comparison of results",
        comparison=comparison,
        cells=cells,
    )


def cells(row: Row) -> list[str]:
    """Values of a row, all but the first with their difference to the first."""
    texts = []
    for position, (value, difference) in enumerate(zip(row.values, row.differences, strict=True)):
        text = format_number(value)
        if position and difference is not None:
            text += f" ({format_difference(difference)})"
        texts.append(text)
    return texts
