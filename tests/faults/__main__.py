"""Try the faults and print their table.

python -m tests.faults
python -m tests.faults --slow checkpoints
"""

import argparse
import sys
import time

from tests.faults.table import format_results, rows, try_all


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("themes", nargs="*", help="themes to try (default: all)")
    parser.add_argument("--slow", action="store_true", help="the slow ones too")
    options = parser.parse_args()
    chosen = [
        entry
        for entry in rows()
        if (not options.themes or entry[0] in options.themes)
        and (options.slow or not entry[2].slow)
    ]
    start = time.monotonic()
    results = list(try_all(chosen))
    sys.stdout.write(format_results(results, time.monotonic() - start))
    return int(any(problems for *_, problems in results))


if __name__ == "__main__":
    sys.exit(main())
