"""Statistics over seeds, and the tables of a comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tabulate import tabulate

# What stands for the split's main data set in a column's key.
MAIN = "{main}"


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n − 1) of n values; NaN where there are too few."""

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
        """``mean ± deviation``; sign "+" writes that of positive means, too."""
        if not self.count:
            return "–"
        mean = f"{self.mean:{sign}.{digits}f}"
        return mean if self.count == 1 else f"{mean} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Comparison:
    """What was measured, by variant and seed.

    Attributes:
        titles: of the variants by name, in the order of tables.
        runs: variant → seed → metric → value.
        reference: the variant that others are compared with.
        main: the data set that tables are about.
    """

    titles: Mapping[str, str]
    runs: Mapping[str, Mapping[int, Mapping[str, float]]]
    reference: str
    main: str

    def values(self, variant: str, key: str) -> dict[int, float]:
        """A metric by seed, where it was measured."""
        key = key.format(main=self.main)
        return {seed: run[key] for seed, run in self.runs.get(variant, {}).items() if key in run}

    def summary(self, variant: str, key: str) -> Summary:
        """A metric over a variant's seeds."""
        return Summary.of(list(self.values(variant, key).values()))

    def difference(self, variant: str, key: str) -> Summary:
        """A metric less the reference's with the same seed, over the seeds that both have."""
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
REASONS = (
    Column("hit rate", f"{MAIN}/dominant/hit_rate"),
    Column("hit rate seen", f"{MAIN}/dominant/hit_rate_seen"),
    Column("hit rate unseen", f"{MAIN}/dominant/hit_rate_unseen"),
    Column("segments of text queries", f"{MAIN}/dominant/text_query_segments"),
    Column("of these own class", f"{MAIN}/dominant/text_query_own_class"),
    Column("mask PQ", f"{MAIN}/panoptic_seg/mask_PQ"),
    Column("object class accuracy seen", f"{MAIN}/panoptic_seg/class_accuracy_th_seen"),
    Column("object class accuracy unseen", f"{MAIN}/panoptic_seg/class_accuracy_th_unseen"),
)


def set_columns(datasets: Sequence[str]) -> tuple[Column, ...]:
    """The mIoU over all classes of each data set."""
    titles = [name.removeprefix("toy_").removeprefix("test_") for name in datasets]
    keys = [f"{name}/sem_seg/mIoU" for name in datasets]
    return tuple(map(Column, titles, keys))


def format_table(comparison: Comparison, columns: Sequence[Column], style: str) -> str:
    """A row per variant; columns that no variant has a value for are left out, "" if all are.

    Args:
        comparison: what was measured.
        columns: what to show.
        style: ``tabulate``'s name of the format: "simple" on a terminal, "pipe" for Markdown.
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
