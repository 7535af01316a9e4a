"""Reports of ``ita reproduce``: measured beside published results, as text, Markdown and HTML."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath

from tabulate import tabulate

from ita.reports.markdown import escape, pipe_table
from ita.reports.numbers import format_difference, format_number
from ita.reports.pages import render
from ita.reports.published import PUBLISHED_METRICS, PublishedResult

# Maximum difference from the published mIoU, in percentage points.
TOLERANCE = 0.2
DECIDING, *OTHER_METRICS = PUBLISHED_METRICS
HEADERS = (
    "data set", "mIoU", "published", "difference", "result", "images", "class list", "precision",
    "s / image",
)  # fmt: skip
# Left-aligned columns; the others hold numbers.
LEFT = frozenset({"data set", "result", "class list", "precision", "metric"})


class Verdict(Enum):
    """Comparison of a data set's mIoU with the published one."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    OTHER_IMAGES = "other images"
    OTHER_LIST = "other class list"
    UNPUBLISHED = "nothing published"


@dataclass(frozen=True)
class Measurement:
    """Results on one data set.

    Attributes:
        title: name of the data set.
        metrics: name in ``PUBLISHED_METRICS`` -> percent, for the evaluated ones.
        published: published results.
        images: number of images evaluated.
        expected_images: number of images of the published results.
        class_list: name or path of the class list.
        list_difference: how the test or the training class list differs from the published one; ""
            if both are the published ones.
        precision: format of the numbers in matrix products.
        seconds_per_image: wall time of the evaluation per image, over all processes.
    """

    title: str
    metrics: Mapping[str, float]
    published: PublishedResult
    images: int
    expected_images: int
    class_list: str
    list_difference: str
    precision: str
    seconds_per_image: float

    def difference(self, metric: str) -> float | None:
        """Measured minus published, in percentage points; None if either is missing."""
        if metric not in self.metrics or metric not in self.published.metrics:
            return None
        return self.metrics[metric] - self.published.metrics[metric]

    @property
    def verdict(self) -> Verdict:
        """Comparison of the mIoU; a result on other images or classes is not comparable."""
        if DECIDING not in self.published.metrics:
            return Verdict.UNPUBLISHED
        if self.images != self.expected_images:
            return Verdict.OTHER_IMAGES
        if self.list_difference:
            return Verdict.OTHER_LIST
        difference = self.difference(DECIDING)
        # Differences are rounded, so that 34.20 reproduces 34.00 in spite of binary fractions.
        near = difference is not None and round(abs(difference), 6) <= TOLERANCE
        return Verdict.REPRODUCED if near else Verdict.DIFFERS


@dataclass(frozen=True)
class NotEvaluated:
    """A data set without results.

    Attributes:
        title: name of the data set.
        reason: what is missing, with the remedy.
        required: whether the data set must be evaluated for a successful reproduction.
    """

    title: str
    reason: str
    required: bool


@dataclass(frozen=True)
class Reproduction:
    """Everything that a report contains.

    Attributes:
        title: name of the model.
        measurements: results of the evaluated data sets.
        not_evaluated: the other data sets.
        facts: (name, value) of the run: checkpoint, config, class lists, versions.
    """

    title: str
    measurements: Sequence[Measurement]
    not_evaluated: Sequence[NotEvaluated]
    facts: Sequence[tuple[str, str]]

    @property
    def successful(self) -> bool:
        """Whether at least one data set is reproduced, as are all with a published mIoU."""
        verdicts = {m.verdict for m in self.measurements} - {Verdict.UNPUBLISHED}
        return verdicts == {Verdict.REPRODUCED} and not any(n.required for n in self.not_evaluated)


def conclusion(reproduction: Reproduction) -> str:
    """Return the result as one line."""
    if reproduction.successful:
        reproduced = [m for m in reproduction.measurements if m.verdict == Verdict.REPRODUCED]
        return (
            f"REPRODUCED: {reproduction.title}, mIoU within {TOLERANCE} of the published one on "
            f"{_titles(reproduced)}"
        )
    return f"NOT REPRODUCED: {reproduction.title}; {'; '.join(_reasons(reproduction))}"


def describe_images(images: int, expected: int) -> str:
    """Return "500 of 2,000" images; numbers above the expected one are no part of it."""
    relation = " of" if images <= expected else ", not"
    return f"{images:,}{relation} {expected:,}"


def _reasons(reproduction: Reproduction) -> list[str]:
    """Reasons why a reproduction is not successful."""
    by_verdict: dict[Verdict, list[Measurement]] = {verdict: [] for verdict in Verdict}
    by_list: dict[str, list[Measurement]] = {}
    for m in reproduction.measurements:
        by_verdict[m.verdict].append(m)
        if m.verdict == Verdict.OTHER_LIST:
            by_list.setdefault(m.list_difference, []).append(m)
    reasons = [
        f"{m.title} differs by {format_difference(m.difference(DECIDING))} mIoU"
        if DECIDING in m.metrics
        else f"{m.title} has no mIoU"
        for m in by_verdict[Verdict.DIFFERS]
    ]
    reasons += [
        f"{m.title} has {describe_images(m.images, m.expected_images)} images"
        for m in by_verdict[Verdict.OTHER_IMAGES]
    ]
    reasons += [f"{_titles(sets)}: {difference}" for difference, sets in by_list.items()]
    reasons += [f"{n.title} was not evaluated" for n in reproduction.not_evaluated if n.required]
    if not reproduction.measurements:
        reasons.append("no data set was evaluated")
    elif len(by_verdict[Verdict.UNPUBLISHED]) == len(reproduction.measurements):
        reasons.append("there is no published mIoU to compare with")
    return reasons


def _titles(measurements: Iterable[Measurement]) -> str:
    return ", ".join(m.title for m in measurements)


def format_text(reproduction: Reproduction) -> str:
    """Format the tables and the data sets without results for the terminal."""
    parts = [
        tabulate(rows, headers, disable_numparse=True, colalign=_alignments(headers))
        for headers, rows in _tables(reproduction)
    ]
    if reproduction.not_evaluated:
        lines = [f"  {n.title}: {n.reason}" for n in reproduction.not_evaluated]
        parts.append("\n".join(["Not evaluated:", *lines]))
    return "\n\n".join(parts) + "\n"


def format_markdown(reproduction: Reproduction) -> str:
    """Format the report as Markdown."""
    parts = [f"# Reproduction of {reproduction.title}", f"**{conclusion(reproduction)}**"]
    for headers, rows in _tables(reproduction):
        parts.append(pipe_table(headers, rows, _alignments(headers)))
    if reproduction.not_evaluated:
        parts.append("## Not evaluated")
        parts.append(
            "\n".join(f"- {n.title}: {escape(n.reason)}" for n in reproduction.not_evaluated)
        )
    parts.append("## Run")
    parts.append("\n".join(f"- {name}: `{value}`" for name, value in reproduction.facts))
    return "\n\n".join(parts) + "\n"


def format_html(reproduction: Reproduction) -> str:
    """Format the report as one HTML page that refers to no other file."""
    return render(
        "reproduction.html.jinja",
        title=f"Reproduction of {reproduction.title}",
        conclusion=conclusion(reproduction),
        status="good" if reproduction.successful else "bad",
        tables=_tables(reproduction),
        alignments=_alignments,
        skipped=[(n.title, n.reason) for n in reproduction.not_evaluated],
        facts=reproduction.facts,
    )


def _tables(reproduction: Reproduction) -> list[tuple[Sequence[str], list[list[str]]]]:
    """Headers and rows of the table of mIoU, and of that of other metrics if there are any."""
    if not reproduction.measurements:
        return []
    rows = [
        [
            m.title,
            *_compared(m, DECIDING),
            m.verdict.value,
            describe_images(m.images, m.expected_images),
            PurePath(m.class_list).name,
            m.precision,
            f"{m.seconds_per_image:.2f}",
        ]
        for m in reproduction.measurements
    ]
    tables: list[tuple[Sequence[str], list[list[str]]]] = [(HEADERS, rows)]
    others = [
        [m.title, metric, *_compared(m, metric)]
        for m in reproduction.measurements
        for metric in OTHER_METRICS
        if metric in m.metrics
    ]
    if others:
        tables.append((("data set", "metric", "measured", "published", "difference"), others))
    return tables


def _compared(measurement: Measurement, metric: str) -> list[str]:
    """Cells of the measured and the published value and their difference."""
    values = (measurement.metrics.get(metric), measurement.published.metrics.get(metric))
    return [*map(format_number, values), format_difference(measurement.difference(metric))]


def _alignments(headers: Sequence[str]) -> list[str]:
    return ["left" if header in LEFT else "right" for header in headers]
