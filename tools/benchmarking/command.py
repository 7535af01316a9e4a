"""Running a measurement: processes, repeats and report."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarking.arguments import PLAIN
from benchmarking.cases import Case, cases_of
from benchmarking.children import ROOT, Child, ChildError, Variant
from benchmarking.report import Row, show, to_json
from ita.errors import UserError
from ita.files import write_atomically

INTERRUPTED = 130
# What a process tells of itself for its rows.
_FACTS = ("amounts", "machine")


def run(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Run a parsed command line and return the exit code: 1 if a row could not be measured.

    Args:
        arguments: the parsed command line.
        words: the command line, for the report.
    """
    try:
        if arguments.work == "plot":
            from benchmarking.plot import draw_plot, read_points

            write_atomically(arguments.output, draw_plot(read_points(arguments.results)))
            return 0
        return measure(arguments, words)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return INTERRUPTED


def measure(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Measure all rows, show the table and write the JSON."""
    variants = variants_of(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
        for case in cases_of(arguments):
            log(case.title)
            rows += measure_case(case, variants, arguments, Path(folder))
            if arguments.output:  # after each row, so that an interruption loses none
                trees = {variant.name: commit_of(variant.tree) for variant in variants}
                content = to_json(arguments.work, words, trees, rows)
                write_atomically(arguments.output, content.encode())
    sys.stdout.write(show(rows) + "\n")
    return int(any(row.error for row in rows))


def variants_of(arguments: argparse.Namespace) -> list[Variant]:
    """Return the sides to compare, this checkout first.

    Raises:
        UserError: the other side does not exist.
    """
    other = arguments.compare
    if other is None:
        return [Variant("this")]
    if other == PLAIN and arguments.work not in ("start", "floors"):
        return [Variant("fast"), Variant(PLAIN, operators=PLAIN)]
    tree = Path(other).resolve()
    if not (tree / "ita" / "__init__.py").is_file():
        raise UserError(f"--compare {other}: there is no checkout, a folder with the package ita")
    if tree == ROOT:
        raise UserError(f"--compare {other}: this is the checkout that is measured")
    return [Variant("this"), Variant(tree.name, tree)]


class VariantError(Exception):
    """A variant whose process failed; the message is one line."""

    def __init__(self, variant: Variant, error: ChildError) -> None:
        super().__init__(str(error))
        self.variant = variant


@contextmanager
def blamed_on(variant: Variant) -> Iterator[None]:
    """Name the variant whose process fails in the block."""
    try:
        yield
    except ChildError as error:
        raise VariantError(variant, error) from error


def measure_case(
    case: Case, variants: Sequence[Variant], arguments: argparse.Namespace, folder: Path
) -> list[Row]:
    """Measure a row for every variant; one that fails is left out of the comparison."""
    rows = {variant: Row(case.title, case.settings, variant.name) for variant in variants}
    remaining = dict(rows)

    def leave_out(failure: VariantError) -> None:
        log(f"  {failure.variant.name}: {failure}")
        remaining.pop(failure.variant).error = str(failure)

    while remaining:
        try:
            _take_turns(case, remaining, arguments, folder)
            break
        except VariantError as failure:
            leave_out(failure)
            for row in remaining.values():
                row.seconds.clear()
    for variant in [variant for variant, row in remaining.items() if not row.memory]:
        try:
            _measure_memory(case, variant, remaining[variant], arguments, folder)
        except VariantError as failure:
            leave_out(failure)
    return list(rows.values())


def _take_turns(
    case: Case, rows: Mapping[Variant, Row], arguments: argparse.Namespace, folder: Path
) -> None:
    """Time the variants alternately; those of one checkout share a process.

    Memory is measured here only of processes that run a single variant.
    """
    children: dict[Path, Child] = {}
    with ExitStack() as stack:
        for variant, row in rows.items():
            if variant.tree not in children:
                with blamed_on(variant):
                    child = stack.enter_context(Child(case, variant.tree, folder))
                children[variant.tree] = child
            row.amounts, row.machine = (children[variant.tree].facts[k] for k in _FACTS)
        for number in range(1 - arguments.warm_up, arguments.repeats + 1):
            for variant, row in rows.items():
                with blamed_on(variant):
                    seconds = children[variant.tree].time(variant.operators)
                if number > 0:
                    row.seconds.append(seconds)
            if number > 0:
                times = ", ".join(f"{row.variant} {row.seconds[-1]:.3f} s" for row in rows.values())
                log(f"  {number} of {arguments.repeats}: {times}")
        if len(children) == len(rows):
            for variant, row in rows.items():
                with blamed_on(variant):
                    row.memory = children[variant.tree].memory()


def _measure_memory(
    case: Case, variant: Variant, row: Row, arguments: argparse.Namespace, folder: Path
) -> None:
    """Measure the memory of a variant in a process that runs no other."""
    with blamed_on(variant), Child(case, variant.tree, folder) as child:
        for _ in range(max(1, arguments.warm_up)):
            child.time(variant.operators)
        row.memory = child.memory()


def log(line: str) -> None:
    """Write progress to the terminal."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def commit_of(tree: Path) -> str:
    """Commit of a checkout, with "-dirty" if it has changes; "unknown" for other folders."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
