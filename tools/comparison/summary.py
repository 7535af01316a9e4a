"""Statistics over seeds and tables of a comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tabulate import tabulate

# Placeholder for the split's main data set in the key of a column.
MAIN = "{main}"


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n − 1) of n values; NaN if there are too few."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Summarize values."""
        return cls(
            fmean(values) if values else math.nan,
            stdev(values) if len(values) > 1 else math.nan,
            len(values),
        )

    def format(self, digits: int = 1, sign: str = "") -> str:
        """Format as ``mean ± deviation``; ``sign`` "+" also writes the sign of positive means."""
        if not self.count:
            return "–"
        mean = f"{self.mean:{sign}.{digits}f}"
        return mean if self.count == 1 else f"{mean} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Comparison:
    """Measurements by variant and seed.

    Attributes:
        titles: variant → title, in the order of table rows.
        runs: variant → seed → metric → value.
        reference: variant that others are compared with.
        main: main data set of the tables.
    """

    titles: Mapping[str, str]
    runs: Mapping[str, Mapping[int, Mapping[str, float]]]
    reference: str
    main: str

    def values(self, variant: str, key: str) -> dict[int, float]:
        """Values of a metric by seed, without seeds that lack it."""
        key = key.format(main=self.main)
        return {seed: run[key] for seed, run in self.runs.get(variant, {}).items() if key in run}

    def summary(self, variant: str, key: str) -> Summary:
        """Summary of a metric over the seeds of a variant."""
        return Summary.of(list(self.values(variant, key).values()))

    def difference(self, variant: str, key: str) -> Summary:
        """Summary of the paired difference to the reference, over their common seeds."""
        values, others = self.values(variant, key), self.values(self.reference, key)
        return Summary.of([values[seed] - others[seed] for seed in values if seed in others])


@dataclass(frozen=True)
class Column:
    """A column of a table: title, metric, and whether it is the difference to the reference."""

    title: str
    key: str
    digits: int = 1
    difference: bool = False


SEEN = Column("mIoU seen", f"{MAIN}/sem_seg/mIoU_seen")
UNSEEN = Column("mIoU unseen", f"{MAIN}/sem_seg/mIoU_unseen")
HARMONIC = Column("harmonic mean", f"{MAIN}/sem_seg/mIoU_harmonic")
PQ = Column("PQ", f"{MAIN}/panoptic_seg/PQ")
QUALITY = (
    SEEN,
    UNSEEN,
    HARMONIC,
    PQ,
    Column("seconds", "seconds", digits=0),
    Column("memory, MB", "peak_memory_mb", digits=0),
)
DIFFERENCES = tuple(
    Column(column.title, column.key, difference=True) for column in (SEEN, UNSEEN, HARMONIC, PQ)
)
DIAGNOSTICS = (
    Column("hit rate", f"{MAIN}/dominant/hit_rate"),
    Column("hit rate seen", f"{MAIN}/dominant/hit_rate_seen"),
    Column("hit rate unseen", f"{MAIN}/dominant/hit_rate_unseen"),
    Column("segments of text queries", f"{MAIN}/dominant/text_query_segments"),
    Column("with query's class", f"{MAIN}/dominant/text_query_own_class"),
    Column("mask PQ", f"{MAIN}/panoptic_seg/mask_PQ"),
    Column("object class accuracy seen", f"{MAIN}/panoptic_seg/class_accuracy_th_seen"),
    Column("object class accuracy unseen", f"{MAIN}/panoptic_seg/class_accuracy_th_unseen"),
)


def set_columns(datasets: Sequence[str]) -> tuple[Column, ...]:
    """Columns with the mIoU over all classes of each data set."""
    titles = [name.removeprefix("toy_").removeprefix("test_") for name in datasets]
    keys = [f"{name}/sem_seg/mIoU" for name in datasets]
    return tuple(map(Column, titles, keys))


def format_table(comparison: Comparison, columns: Sequence[Column], style: str) -> str:
    """Format a table with one row per variant and without empty columns; "" if all are empty.

    Args:
        comparison: the measurements.
        columns: columns to show.
        style: ``tabulate`` format: "simple" for the terminal, "pipe" for Markdown.
    """
    shown = [c for c in columns if any(comparison.values(v, c.key) for v in comparison.titles)]
    if not shown:
        return ""
    rows = []
    for variant, title in comparison.titles.items():
        row = [title, str(len(comparison.runs.get(variant, {})))]
        rows.append(row + [_cell(comparison, variant, column) for column in shown])
    return tabulate(
        rows,
        ["", "seeds", *(column.title for column in shown)],
        tablefmt=style,
        disable_numparse=True,
        colalign=("left", *("right" for _ in range(len(shown) + 1))),
    )


def _cell(comparison: Comparison, variant: str, column: Column) -> str:
    if not column.difference:
        return comparison.summary(variant, column.key).format(column.digits)
    if variant == comparison.reference:
        return "reference"
    return comparison.difference(variant, column.key).format(column.digits, sign="+")
