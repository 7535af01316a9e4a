"""Tables and JSON of a measurement."""

import json
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from benchmarking.cases import CEILINGS


@dataclass
class Row:
    """Measurement of a work by one variant.

    Attributes:
        title: the settings that vary, in words.
        settings: all settings.
        variant: side of the comparison.
        seconds: of each repeat, in order.
        amounts: what a pass handles, by name.
        memory: bytes: ``peak`` and, if known, ``above`` that after setup.
        machine: see ``benchmarking.machine``.
        error: why it was not measured; empty if it was.
    """

    title: str
    settings: Mapping[str, Any]
    variant: str
    seconds: list[float] = field(default_factory=list)
    amounts: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def to_json(
    work: str, words: Sequence[str], commits: Mapping[str, str], rows: Sequence[Row]
) -> str:
    """Format all measurements.

    Args:
        work: name of the work.
        words: the command line.
        commits: commit of each variant's checkout.
        rows: the measurements.
    """
    machine = next((row.machine for row in rows if row.machine), {})
    content = {
        "work": work,
        "command": shlex.join(["python", "tools/benchmark.py", *words]),
        "commits": commits,
        "machine": machine,
        # Above the number of cores, other programs took part of the time.
        "load of the last minute": round(os.getloadavg()[0], 2),
        "rows": [{k: v for k, v in asdict(row).items() if k != "machine"} for row in rows],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def show(rows: Sequence[Row]) -> str:
    """Format the tables for a terminal or a Markdown page."""
    measured = [row for row in rows if not row.error]
    parts = [describe(measured[0].machine)] if measured else []
    parts.append(_table(rows))
    if ratios := _ratios(rows):
        parts.append(ratios)
    if floors := _floors(measured):
        parts.append(floors)
    return "\n\n".join(parts)


def describe(machine: Mapping[str, Any]) -> str:
    """Name the machine and the main versions in one line."""
    versions = machine["versions"]
    parts = [machine["processor"], f"{machine['cores']} cores"]
    parts += [f"{machine[key]} {key}" for key in ("threads",) if key in machine]
    parts += [str(machine[key]) for key in ("GPU", "PyTorch uses") if key in machine]
    parts += [f"PyTorch {versions['torch']}", f"Python {versions['python']}"]
    return ", ".join(parts)


def _table(rows: Sequence[Row]) -> str:
    """Seconds, rates and memory of every row."""
    units = list(dict.fromkeys(name for row in rows for name in row.amounts))
    several = len({row.variant for row in rows}) > 1
    headers = ["", *(["variant"] if several else []), "seconds", "min", "max"]
    headers += [f"{unit}/s" for unit in units] + ["peak GB", "above setup GB"]
    cells = []
    for row in rows:
        begin = [row.title, *([row.variant] if several else [])]
        if row.error:
            cells.append([*begin, row.error])
            continue
        rates = [row.amounts[u] / row.median if u in row.amounts else None for u in units]
        memory = [row.memory[k] / 1e9 if k in row.memory else None for k in ("peak", "above")]
        times = (row.median, min(row.seconds), max(row.seconds))
        cells.append([*begin, *map(_digits, [*times, *rates, *memory])])
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _ratios(rows: Sequence[Row]) -> str:
    """Ratios of other variants' times to those of this checkout; "" without a comparison."""
    cells = []
    own: dict[str, Row] = {}
    for row in rows:
        base = own.setdefault(row.title, row)
        if row is base or row.error or base.error:
            continue
        paired = [b / a for a, b in zip(base.seconds, row.seconds, strict=True)]
        ratio = f"{row.median / base.median:.2f}"
        cells.append([row.title, ratio, f"{min(paired):.2f}", f"{max(paired):.2f}"])
        cells[-1] += [_memory_ratio(row, base, key) for key in ("peak", "above")]
    if not cells:
        return ""
    base = rows[0].variant
    other = next(row.variant for row in rows if row.variant != base)
    headers = [f"{other} / {base}", "seconds", "min pair", "max pair", "peak", "above setup"]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _memory_ratio(row: Row, base: Row, key: str) -> str:
    return f"{row.memory[key] / base.memory[key]:.2f}" if base.memory.get(key) else ""


def _floors(rows: Sequence[Row]) -> str:
    """Least time of each part at the ceilings of the machine; "" without measured ceilings."""
    ceilings = {row.settings.get("part"): row for row in rows}
    if not set(CEILINGS) <= ceilings.keys():
        return ""
    product, copy = (ceilings[name] for name in CEILINGS)
    flops = product.amounts["GFLOP"] / min(product.seconds)
    traffic = copy.amounts["GB"] / min(copy.seconds)
    cells = []
    for row in rows:
        if row.settings["part"] in CEILINGS:
            continue
        least = row.amounts["GFLOP"] / flops, row.amounts["GB"] / traffic
        values = [row.amounts["GFLOP"], row.amounts["GB"], row.median, *least]
        cells.append([row.title, *map(_digits, values)])
    headers = ["part", "GFLOP", "GB", "seconds", "at matrix products' speed", "at copies' speed"]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _digits(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return ""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    decimals = max(0, 2 - int(f"{value:e}".partition("e")[2]))
    return f"{value:.{min(decimals, 5)}f}"
