"""Compare ITA with ablated variants and FC-CLIP on the toy world, over several seeds.

    python tools/toy_comparison.py                           on validation scenes, for tuning
    python tools/toy_comparison.py --split test --report docs/toy_comparison
    python tools/toy_comparison.py --ablation dominant --seeds 0

Every run is a separate `ita train` in the folder OUTPUT/<variant>/seed<k>. The same command resumes
interrupted runs, skips finished ones and trains no model twice: another split or other classifier
weights only require evaluation. The exit code is 0 if all runs are finished.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from comparison.variants import ABLATIONS, MODELS, SPLITS

BASE_CONFIG = Path("configs/toy/ita_tiny.yaml")


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, default=BASE_CONFIG, help="base config (default: %(default)s)")
    add("--output", type=Path, default=Path("output/toy_comparison"), help="folder of all runs")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")
    add(
        "--variants",
        nargs="+",
        choices=MODELS,
        help="models to compare (default: all) or to vary in an ablation (default: ita)",
    )
    add("--ablation", choices=ABLATIONS, help="vary one component instead of comparing variants")
    add("--split", choices=SPLITS, default="val", help="val (default) for tuning, test for results")
    add("--iterations", type=int, help="default: the config's; the schedule is scaled")
    add("--jobs", type=int, default=2, help="parallel runs, which share the cores (default: 2)")
    add("--report", type=Path, help="also write Markdown, plot and JSON to this folder")
    add("--report-only", action="store_true", help="report finished runs and start none")
    add(
        "--weights",
        nargs="+",
        type=_parse_weights,
        metavar="VARIANT=ALPHA,BETA",
        help="weights of a variant's two classifiers, tuned on val; default: the config's",
    )
    add("--train-scenes", type=int, metavar="N", help="number to draw if none exist (default: 600)")
    add("--override", nargs="+", default=[], metavar="KEY VALUE", help="config keys of all runs")
    arguments = parser.parse_args(words)
    if arguments.jobs < 1 or (arguments.iterations or 1) < 1 or min(arguments.seeds) < 0:
        parser.error("--jobs and --iterations must be at least 1, seeds at least 0")
    arguments.weights = dict(arguments.weights or ())
    if arguments.weights and arguments.ablation:
        parser.error("--weights are for comparing variants, not for an --ablation")
    if missing := arguments.weights.keys() - {*(arguments.variants or MODELS)}:
        parser.error(f"--weights of {', '.join(sorted(missing))}, which is not among --variants")
    return arguments


def _parse_weights(word: str) -> tuple[str, tuple[float, float]]:
    """Parse ``VARIANT=ALPHA,BETA``."""
    name, _, pair = word.partition("=")
    try:
        alpha, beta = (float(weight) for weight in pair.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{word}' is not VARIANT=ALPHA,BETA") from error
    return name, (alpha, beta)
