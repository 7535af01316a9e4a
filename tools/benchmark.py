"""Measure time and memory of the model and of what surrounds it; see docs/performance.md."""

import sys

from benchmarking.arguments import parse_arguments


def main() -> int:
    """Run the measurement of the command line."""
    arguments = parse_arguments(sys.argv[1:])
    # Imported late: --help and mistakes are answered at once.
    from benchmarking.command import run

    return run(arguments, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
