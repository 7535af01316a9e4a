"""Compare ITA with its parts left out and with FC-CLIP, on the toy world, over several seeds.

    python tools/toy_comparison.py                           choices: measured on validation scenes
    python tools/toy_comparison.py --split test --report docs/toy_comparison
    python tools/toy_comparison.py --ablation dominant --seeds 0

Every run is `ita train` in a folder of its own, OUTPUT/<variant>/seed<k>. The same command goes on
where it was interrupted, leaves out what is finished, and trains nothing twice: another split or
weighting of the classifiers only evaluates. Exit code 0 if all runs are finished.
"""

import argparse
import inspect
import json
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from comparison.gather import make_report
from comparison.processes import TRAIN
from comparison.runs import SPLITS, Run, Setup, evaluation_of, measured
from comparison.schedule import Schedule, alone_in
from comparison.summary import HARMONIC, PQ, SEEN, UNSEEN
from comparison.variants import (
    ABLATIONS,
    BASE,
    MODELS,
    Variant,
    ablation,
    main_variants,
    with_weights,
)
from ita.errors import UserError
from ita.toy.dataset import DESCRIPTION, make_toy_dataset

INTERRUPTED = 130
BASE_CONFIG = Path("configs/toy/ita_tiny.yaml")


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, default=BASE_CONFIG, help="the base (default: %(default)s)")
    add("--output", type=Path, default=Path("output/toy_comparison"), help="folder of all runs")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")
    add(
        "--variants",
        nargs="+",
        choices=MODELS,
        help="what to compare (default: all), or what an ablation varies (default: ita)",
    )
    add("--ablation", choices=ABLATIONS, help="vary one part instead of comparing the variants")
    add("--split", choices=SPLITS, default="val", help="val (default) for choices, test to report")
    add("--iterations", type=int, help="default: the config's; its schedule is scaled along")
    add("--jobs", type=int, default=2, help="runs side by side, which share the cores (default: 2)")
    add("--report", type=Path, help="also write Markdown, plot and numbers into this folder")
    add("--report-only", action="store_true", help="report what is finished and start nothing")
    add(
        "--weights",
        nargs="+",
        type=_parse_weights,
        metavar="VARIANT=ALPHA,BETA",
        help="weights of a variant's two classifiers, chosen on val; default: the config's",
    )
    add("--train-scenes", type=int, metavar="N", help="to draw, if there are none (default: 600)")
    add("--override", nargs="+", default=[], metavar="KEY VALUE", help="config keys of all runs")
    arguments = parser.parse_args(words)
    if arguments.jobs < 1 or (arguments.iterations or 1) < 1 or min(arguments.seeds) < 0:
        parser.error("--jobs and --iterations are at least 1, seeds at least 0")
    arguments.weights = dict(arguments.weights or ())
    if arguments.weights and arguments.ablation:
        parser.error("--weights are for comparing variants, not for an --ablation")
    if missing := arguments.weights.keys() - {*(arguments.variants or MODELS)}:
        parser.error(f"--weights of {', '.join(sorted(missing))}, which is not among --variants")
    return arguments


def _parse_weights(word: str) -> tuple[str, tuple[float, float]]:
    """``VARIANT=ALPHA,BETA``."""
    name, _, pair = word.partition("=")
    try:
        alpha, beta = (float(weight) for weight in pair.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{word}' is not VARIANT=ALPHA,BETA") from error
    return name, (alpha, beta)


def choose_variants(
    setup: Setup,
    models: Sequence[str] | None,
    group: str | None,
    weights: Mapping[str, tuple[float, float]],
) -> list[Variant]:
    """The rows of the comparison.

    Args:
        setup: whose base config they stand on.
        models: names of main variants; None: all or, for an ablation, ITA.
        group: the ablation, or None.
        weights: α and β by the name of a main variant; of the others, the config's.

    Raises:
        UserError: a key or value that is wrong.
    """
    chosen = models or (MODELS[:1] if group else MODELS)
    variants = [v for v in main_variants(setup.config_of(BASE)) if v.model in chosen]
    if group:
        variants = [v for base in variants for v in ablation(group, base, setup.config_of)]
    variants = [
        with_weights(v, *weights[v.model], setup.config_of) if v.model in weights else v
        for v in variants
    ]
    return list({variant.name: variant for variant in variants}.values())


def choose_reference(
    variants: Sequence[Variant], models: Sequence[str] | None, group: str | None
) -> str:
    """What the others are compared with: FC-CLIP or, in an ablation, the model as configured."""
    names = [variant.name for variant in variants]
    wanted = (models or MODELS)[0] if group else "fcclip"
    of_model = [variant.name for variant in variants if variant.model == wanted]
    return wanted if wanted in names else (of_model or names)[0]


def evaluations_of(
    setup: Setup, variants: Sequence[Variant], seeds: Sequence[int]
) -> dict[tuple[str, int], Run]:
    """The evaluation of every variant (by name) and seed, all of a seed before the next."""
    return {(v.name, s): evaluation_of(setup, v, s) for s in dict.fromkeys(seeds) for v in variants}


def with_trainings(evaluations: Iterable[Run]) -> list[Run]:
    """Evaluations, each training before the first one that needs it."""
    pairs = ((run.needs, run) for run in evaluations)
    return list({run.folder: run for pair in pairs for run in pair}.values())


def summarize(run: Run, main: str) -> str:
    """What a finished evaluation has found, in a line."""
    numbers = measured(run)
    columns = ((c.title, c.key.format(main=main)) for c in (SEEN, UNSEEN, HARMONIC, PQ))
    return ", ".join(f"{title} {numbers[key]:.1f}" for title, key in columns if key in numbers)


def prepare_scenes(datasets: Path, train: int | None) -> None:
    """Make the data sets; scenes that are there already, also of other numbers or sizes, stay.

    Args:
        datasets: the folder to hold them.
        train: training scenes; None: those that are there or the usual number.

    Raises:
        UserError: there are others, or the folder holds something else or cannot be written.
    """
    folder = datasets / "toy"
    description = folder / DESCRIPTION
    numbers = {}
    if description.exists():
        made_from = json.loads(description.read_text(encoding="utf-8"))
        known = inspect.signature(make_toy_dataset).parameters
        numbers = {key: made_from[key] for key in made_from if key in known}
    else:
        print(f"Making the scenes in {folder}", flush=True)
    if train is not None:
        numbers["train"] = train
    # Of scenes that are there, this says whether they are what such numbers give today.
    make_toy_dataset(folder, **numbers)


def compare(arguments: argparse.Namespace, command: Sequence[str], typed: Sequence[str]) -> None:
    """Carry out what is missing, then report what is there.

    Args:
        arguments: the command line.
        command: what runs ``ita train``, without arguments.
        typed: the command line as it was typed.

    Raises:
        UserError: something is wrong with the arguments or the output folder, or runs failed.
    """
    output = arguments.output.resolve()
    overrides = tuple(arguments.override)
    setup = Setup(arguments.config_file, output, overrides, arguments.iterations, arguments.split)
    variants = choose_variants(setup, arguments.variants, arguments.ablation, arguments.weights)
    failures: list[str] = []
    if arguments.report_only and not (setup.datasets / "toy" / DESCRIPTION).exists():
        raise UserError(f"{output} holds no comparison to report")
    with alone_in(output) as lock:
        prepare_scenes(setup.datasets, arguments.train_scenes)
        evaluations = evaluations_of(setup, variants, arguments.seeds)
        if not arguments.report_only:
            schedule = Schedule(
                datasets=setup.datasets,
                command=command,
                jobs=arguments.jobs,
                lock=lock,
                tell=lambda line: print(line, flush=True),
                summarize=lambda run: summarize(run, SPLITS[setup.split][0]),
            )
            schedule.carry_out(with_trainings(evaluations.values()))
            failures = schedule.failures
        finished = {key: run for key, run in evaluations.items() if run.is_finished()}
    if finished:
        reference = choose_reference(variants, arguments.variants, arguments.ablation)
        report = make_report(setup, variants, reference, finished, typed)
        print(f"\n{report.text()}\n")
        stem = f"{arguments.ablation or 'variants'}_{setup.split}"
        for folder in dict.fromkeys((output / "report", arguments.report)):
            if folder:
                print(f"Report: {report.write(folder, stem)}")
    if failures:
        raise UserError("\n".join(failures))
    if missing := len(evaluations) - len(finished):
        raise UserError(f"{missing} of {len(evaluations)} runs are not finished")


def main(words: Sequence[str] | None = None, command: Sequence[str] = TRAIN) -> int:
    """Run the comparison; the exit code.

    Args:
        words: the command line's; None: this process's.
        command: what runs ``ita train``, without arguments.
    """
    words = sys.argv[1:] if words is None else words
    arguments = parse_arguments(words)
    try:
        with _signals_interrupt():
            compare(arguments, command, ["python", "tools/toy_comparison.py", *words])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoints.", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """End like Ctrl-C when killed or left by the terminal, for runs would otherwise live on."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
