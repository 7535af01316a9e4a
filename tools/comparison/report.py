"""Report of a comparison: tables for the terminal, Markdown with a plot, and JSON."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.plot import draw_plot
from comparison.summary import (
    DIAGNOSTICS,
    DIFFERENCES,
    QUALITY,
    Column,
    Comparison,
    format_table,
    set_columns,
)
from ita.files import write_atomically


@dataclass(frozen=True)
class Report:
    """A comparison and its setup.

    Attributes:
        title: heading.
        comparison: the measurements.
        split: split of the scenes.
        datasets: data sets of the split.
        command: command that creates this report, as typed.
        facts: further lines about the setup, by title.
        runs: record of every run: variant, seed, commits and metrics.
    """

    title: str
    comparison: Comparison
    split: str
    datasets: Sequence[str]
    command: Sequence[str]
    facts: Mapping[str, str]
    runs: Sequence[Mapping[str, Any]]

    def tables(self, style: str) -> dict[str, str]:
        """Heading → table, in the ``tabulate`` format ``style``."""
        reference = self.comparison.titles[self.comparison.reference]
        parts: dict[str, Sequence[Column]] = {f"Results on {self.datasets[0]}": QUALITY}
        if len(self.comparison.titles) > 1:
            parts[f"Difference to {reference} with the same seed"] = DIFFERENCES
        parts[_DIAGNOSTICS] = DIAGNOSTICS
        if len(self.datasets) > 1:
            parts["mIoU on each test set"] = set_columns(self.datasets)
        tables = (
            (name, format_table(self.comparison, part, style)) for name, part in parts.items()
        )
        return {name: table for name, table in tables if table}

    def text(self) -> str:
        """Format the tables for the terminal."""
        return "\n\n".join(f"{name}\n{table}" for name, table in self.tables("simple").items())

    def markdown(self, plot: str) -> str:
        """Format the whole report as Markdown.

        Args:
            plot: file name of the plot in the same folder.
        """
        parts = [f"# {self.title}", _EXPLANATION, f"![mIoU of seen and unseen classes]({plot})"]
        for name, table in self.tables("pipe").items():
            parts += [f"## {name}", table]
            parts += [_DIAGNOSTICS_EXPLAINED] if name == _DIAGNOSTICS else []
        parts.append("## Setup")
        parts.append("\n".join(f"- {key}: {value}" for key, value in self.facts.items()))
        parts.append(f"Reproduce with\n\n```bash\n{shlex.join(self.command)}\n```")
        return "\n\n".join(parts) + "\n"

    def json(self) -> dict[str, Any]:
        """Metrics of the tables, summarized and for every run."""
        comparison = self.comparison
        columns = (*QUALITY, *DIAGNOSTICS, *set_columns(self.datasets))
        keys = {column.key.format(main=comparison.main) for column in columns}
        summary = {
            variant: {
                column.key.format(main=comparison.main): _plain(comparison, variant, column)
                for column in columns
                if comparison.values(variant, column.key)
            }
            for variant in comparison.titles
        }
        runs = [
            {key: _rounded(value) for key, value in run.items() if "/" not in key or key in keys}
            for run in self.runs
        ]
        return {
            "title": self.title,
            "command": shlex.join(self.command),
            "split": self.split,
            "reference": comparison.reference,
            "facts": self.facts,
            "summary": summary,
            "runs": runs,
        }

    def write(self, folder: Path, stem: str) -> Path:
        """Write ``stem``.md, .png and .json to a folder.

        Returns:
            Path of the Markdown file.

        Raises:
            UserError: a file cannot be written.
        """
        write_atomically(folder / f"{stem}.png", draw_plot(self.comparison))
        write_atomically(folder / f"{stem}.json", compact_json(self.json()).encode())
        path = folder / f"{stem}.md"
        write_atomically(path, self.markdown(f"{stem}.png").encode())
        return path


_EXPLANATION = """\
Mean ± standard deviation over seeds. All variants have the same number of queries, iterations,
images and learning rate; only the config keys listed below differ. Every name in the data set's
class list, seen or unseen, is a candidate for every pixel. Seconds and memory refer to training:
wall-clock time, with other runs in parallel, and the peak memory of a single process."""

_DIAGNOSTICS = "Diagnostics"
_DIAGNOSTICS_EXPLAINED = """\
Hit rate: percentage of an image's classes that are among its dominant categories. Segments of text
queries: percentage of the predicted segments that come from these queries, and percentage of those
that have the query's class. Mask PQ: panoptic quality regardless of class. Object class accuracy:
percentage of the detected objects that have the correct class."""


def compact_json(content: Mapping[str, Any]) -> str:
    """Format JSON with one line per entry, and per item of an entry that is a list or dict."""
    entries = []
    for key, value in content.items():
        if isinstance(value, dict):
            items = [f"{_line(name)}: {_line(item)}" for name, item in value.items()]
            text = "{\n" + ",\n".join(items) + "\n}"
        elif isinstance(value, list):
            text = "[\n" + ",\n".join(map(_line, value)) + "\n]"
        else:
            text = _line(value)
        entries.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _plain(comparison: Comparison, variant: str, column: Column) -> dict[str, Any]:
    own, paired = (f(variant, column.key) for f in (comparison.summary, comparison.difference))
    content: dict[str, Any] = {"mean": round(own.mean, 3), "n": own.count}
    if own.count > 1:
        content["sd"] = round(own.deviation, 3)
    if variant != comparison.reference and paired.count:
        content["paired_difference"] = round(paired.mean, 3)
        if paired.count > 1:
            content["paired_difference_sd"] = round(paired.deviation, 3)
    return content
