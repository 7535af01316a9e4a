"""A comparison as tables on the terminal, as Markdown with a plot, and as JSON."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.plot import draw_plot
from comparison.summary import (
    DIFFERENCES,
    QUALITY,
    REASONS,
    Column,
    Comparison,
    format_table,
    set_columns,
)
from ita.files import write_atomically


@dataclass(frozen=True)
class Report:
    """A comparison and how it came about.

    Attributes:
        title: heading.
        comparison: what was measured.
        split: which scenes it was measured on.
        datasets: the split's data sets.
        command: what makes this report, as typed.
        facts: further lines, by what they are about.
        runs: of every run, what there is to keep: variant, seed, commit and the like.
    """

    title: str
    comparison: Comparison
    split: str
    datasets: Sequence[str]
    command: Sequence[str]
    facts: Mapping[str, str]
    runs: Sequence[Mapping[str, Any]]

    def tables(self, style: str) -> dict[str, str]:
        """Heading → table, in ``tabulate``'s format of that name."""
        reference = self.comparison.titles[self.comparison.reference]
        parts: dict[str, Sequence[Column]] = {f"Results on {self.datasets[0]}": QUALITY}
        if len(self.comparison.titles) > 1:
            parts[f"Difference to {reference} with the same seed"] = DIFFERENCES
        parts["Where it comes from"] = REASONS
        if len(self.datasets) > 1:
            parts["mIoU on each test set"] = set_columns(self.datasets)
        tables = (
            (name, format_table(self.comparison, part, style)) for name, part in parts.items()
        )
        return {name: table for name, table in tables if table}

    def text(self) -> str:
        """The tables for a terminal."""
        return "\n\n".join(f"{name}\n{table}" for name, table in self.tables("simple").items())

    def markdown(self, plot: str) -> str:
        """The whole report.

        Args:
            plot: file name of the picture beside it.
        """
        parts = [f"# {self.title}", _EXPLANATION, f"![mIoU of seen and unseen classes]({plot})"]
        for name, table in self.tables("pipe").items():
            parts += [f"## {name}", table]
            parts += [_REASONS_EXPLAINED] if name == "Where it comes from" else []
        parts.append("## How it was made")
        parts.append("\n".join(f"- {key}: {value}" for key, value in self.facts.items()))
        parts.append(f"Made again by\n\n```bash\n{shlex.join(self.command)}\n```")
        return "\n\n".join(parts) + "\n"

    def json(self) -> dict[str, Any]:
        """The tables' numbers: of every run, and summarized."""
        comparison = self.comparison
        columns = (*QUALITY, *REASONS, *set_columns(self.datasets))
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
        """Write ``stem``.md, .png and .json into a folder.

        Returns:
            The Markdown file.

        Raises:
            UserError: they cannot be written.
        """
        write_atomically(folder / f"{stem}.png", draw_plot(self.comparison))
        write_atomically(folder / f"{stem}.json", compact_json(self.json()).encode())
        path = folder / f"{stem}.md"
        write_atomically(path, self.markdown(f"{stem}.png").encode())
        return path


_EXPLANATION = """\
Mean ± standard deviation over seeds. All variants have the same number of queries, iterations,
images and learning rate; only the keys listed below differ. Every name of the data set's vocabulary
is a candidate for every pixel, seen or not. Seconds and memory are those of training: wall-clock
time, with other runs at work beside it, and the most that one process of it held."""

_REASONS_EXPLAINED = """\
Hit rate: how many of an image's classes are among its dominant categories. Segments of text
queries: how many of the segments predicted come from those queries, and how many of these are of
the class that the query stands for. Mask PQ: panoptic quality whatever the class. Object class
accuracy: of the objects found, how many have the right class."""


def compact_json(content: Mapping[str, Any]) -> str:
    """JSON with a line for each entry, and for each item of an entry that is a list or dict."""
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
