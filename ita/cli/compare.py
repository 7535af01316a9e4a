"""Compare the results of runs side by side, with their differences to the first run.

ita compare output/baseline output/mine
ita compare output/baseline output/mine --output comparison.html
ita compare output/*/results.json --format csv --output comparison.csv

Differences in class lists and numbers of images, with which results are not comparable, are named,
and so are the config keys in which the runs differ and the classes whose IoU gains and loses most
(all classes in CSV). HTML also shows the training curves of all runs in one chart per scalar.
"""

import argparse
import sys
from pathlib import Path

# Suffix of the output file -> format.
FORMATS = {".html": "html", ".md": "markdown", ".csv": "csv"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="output folder of a run, or its results.json")
    add(
        "--format",
        choices=tuple(FORMATS.values()),
        help="format (default: by the suffix of --output, or else markdown)",
    )
    add("--output", metavar="FILE", help="file to write (default: print)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare, and write or print the comparison."""
    from ita.files import write_atomically
    from ita.reports.comparison_formats import (
        format_comparison_csv,
        format_comparison_html,
        format_comparison_markdown,
    )
    from ita.reports.run_comparison import compare

    comparison = compare(options.runs)
    for warning in comparison.warnings:  # also where the format has no place for them
        sys.stderr.write(f"not comparable: {warning}\n")
    formatters = {
        "html": format_comparison_html,
        "markdown": format_comparison_markdown,
        "csv": format_comparison_csv,
    }
    suffix = Path(options.output).suffix.lower() if options.output else ""
    text = formatters[options.format or FORMATS.get(suffix, "markdown")](comparison)
    if not options.output:
        sys.stdout.write(text)
        return 0
    write_atomically(options.output, text.encode())
    sys.stdout.write(f"Comparison: {options.output}\n")
    return 0
