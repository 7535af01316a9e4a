"""Compare ITA with ablated variants and FC-CLIP on the toy world."""

import sys

from comparison.arguments import parse_arguments


def main() -> int:
    """Run the comparison of the command line."""
    arguments = parse_arguments(sys.argv[1:])
    # Imported late: --help and mistakes are answered before the heavy libraries load.
    from comparison.command import run

    return run(arguments, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
