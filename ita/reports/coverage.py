"""Tables that compare a training class list with test lists: merges, seen and unseen classes."""

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from ita.classes import ClassList, Merge, merges

HEADERS = ("class list", "classes", "seen", "unseen", "merges", "classes merged")
LINE_WIDTH = 100


def format_coverage(
    training: ClassList, tests: Sequence[ClassList], *, list_unseen: bool = False
) -> str:
    """Format a table with a row per test list, and below it every merge.

    Args:
        training: the training class list.
        tests: class lists to evaluate with.
        list_unseen: also list the names of the unseen classes.
    """
    found = [merges(training, test) for test in tests]
    cells = [_cells(training, test, merged) for test, merged in zip(tests, found, strict=True)]
    title = f"Class lists, for a model trained with {training.name} ({len(training)} classes)"
    paragraphs = [f"{title}\n\n{tabulate(cells, HEADERS)}\n"]
    for test, merged in zip(tests, found, strict=True):
        if merged:
            paragraphs.append(_describe_merges(training, test, merged))
        if list_unseen:
            paragraphs.append(_describe_unseen(training, test))
    return "\n".join(paragraphs)


def _cells(training: ClassList, test: ClassList, merged: Sequence[Merge]) -> tuple[str | int, ...]:
    seen = sum(test.seen(training))
    covered = {index for merge in merged for index in merge.covered}
    return (test.name, len(test), seen, len(test) - seen, len(merged), len(covered))


def _describe_merges(training: ClassList, test: ClassList, merged: Sequence[Merge]) -> str:
    lines = [f"{test.name}: classes that training with {training.name} does not separate:"]
    for merge in merged:
        names = training.classes[merge.training]
        covered = ", ".join(_describe_class(test, index, names) for index in merge.covered)
        lines.append(f"  {names[0]} -> {covered}")
    lines.append(f"  -> leave names of other classes out of {training.name}")
    return "\n".join(lines) + "\n"


def _describe_class(test: ClassList, index: int, names: Sequence[str]) -> str:
    """Label id and first name of a class, and the names it shares unless that is the only one."""
    first = test.names[index]
    shared = [name for name in dict.fromkeys(test.classes[index]) if name in names]
    by = "" if shared == [first] else f" ({', '.join(shared)})"
    return f"{test.label_ids[index]} {first}{by}"


def _describe_unseen(training: ClassList, test: ClassList) -> str:
    names = [n for n, seen in zip(test.names, test.seen(training), strict=True) if not seen]
    title = f"{test.name}: {len(names)} unseen classes" + (":" if names else "")
    text = textwrap.fill(", ".join(names), LINE_WIDTH, initial_indent="  ", subsequent_indent="  ")
    return f"{title}\n{text}\n" if names else f"{title}\n"
