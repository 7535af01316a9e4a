"""Markdown tables of texts from anywhere."""

import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate


def pipe_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], alignments: Sequence[str]
) -> str:
    """Format a table; ``alignments`` are "left" or "right" for each column."""
    cells = [[escape(cell) for cell in row] for row in rows]
    heads = [escape(header) for header in headers]
    return tabulate(cells, heads, "pipe", disable_numparse=True, colalign=alignments)


def escape(text: str) -> str:
    """Escape the characters with a meaning in Markdown that names and paths contain."""
    return re.sub(r"([|*<>`\\])", r"\\\1", " ".join(text.split()))
