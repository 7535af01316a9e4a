"""Running a comparison: training and evaluating the variants, then reporting them."""

import argparse
import inspect
import json
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from comparison.arguments import parse_arguments
from comparison.gather import make_report
from comparison.processes import TRAIN
from comparison.runs import Run, Setup, evaluation_of, measured
from comparison.schedule import Schedule, alone_in
from comparison.summary import HARMONIC, PQ, SEEN, UNSEEN
from comparison.variants import (
    BASE,
    MODELS,
    SPLITS,
    Variant,
    ablation,
    main_variants,
    with_weights,
)
from ita.errors import UserError
from ita.files import find_file
from ita.toy.dataset import DESCRIPTION, make_toy_dataset

INTERRUPTED = 130


def choose_variants(
    setup: Setup,
    models: Sequence[str] | None,
    group: str | None,
    weights: Mapping[str, tuple[float, float]],
) -> list[Variant]:
    """Return the variants to compare, in the order of table rows.

    Args:
        setup: setup with the base config.
        models: names of main variants; None selects all or, for an ablation, ITA.
        group: name of the ablation, or None.
        weights: α and β by the name of a main variant; other variants have the config's.

    Raises:
        UserError: a key or value is invalid.
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
    """Name of the reference variant: FC-CLIP or, in an ablation, the model as configured."""
    names = [variant.name for variant in variants]
    preferred = (models or MODELS)[0] if group else "fcclip"
    of_model = [variant.name for variant in variants if variant.model == preferred]
    return preferred if preferred in names else (of_model or names)[0]


def evaluations_of(
    setup: Setup, variants: Sequence[Variant], seeds: Sequence[int]
) -> dict[tuple[str, int], Run]:
    """Evaluation of every variant (by name) and seed, ordered by seed."""
    return {(v.name, s): evaluation_of(setup, v, s) for s in dict.fromkeys(seeds) for v in variants}


def with_trainings(evaluations: Iterable[Run]) -> list[Run]:
    """Insert each training before the first evaluation that needs it."""
    pairs = ((run.needs, run) for run in evaluations)
    return list({run.folder: run for pair in pairs for run in pair}.values())


def summarize(run: Run, main: str) -> str:
    """Main metrics of a finished evaluation, in one line."""
    numbers = measured(run)
    columns = ((c.title, c.key.format(main=main)) for c in (SEEN, UNSEEN, HARMONIC, PQ))
    return ", ".join(f"{title} {numbers[key]:.1f}" for title, key in columns if key in numbers)


def prepare_scenes(datasets: Path, train: int | None) -> None:
    """Write the data sets; existing scenes are kept, even with other numbers or sizes.

    Args:
        datasets: parent folder of the data sets.
        train: number of training scenes; None keeps that of existing scenes or uses the default.

    Raises:
        UserError: existing scenes differ, or the folder has other content or cannot be written.
    """
    folder = datasets / "toy"
    description = folder / DESCRIPTION
    numbers = {}
    if description.exists():
        existing = json.loads(description.read_text(encoding="utf-8"))
        known = inspect.signature(make_toy_dataset).parameters
        numbers = {key: existing[key] for key in existing if key in known}
    else:
        print(f"Drawing the scenes in {folder}", flush=True)
    if train is not None:
        numbers["train"] = train
    # Also checks that existing scenes are those that the current code draws for these numbers.
    make_toy_dataset(folder, **numbers)


def compare(arguments: argparse.Namespace, command: Sequence[str], typed: Sequence[str]) -> None:
    """Execute unfinished runs, then report the finished ones.

    Args:
        arguments: parsed command line.
        command: command of ``ita train``, without arguments.
        typed: command line as typed.

    Raises:
        UserError: the arguments or the output folder are invalid, or runs failed.
    """
    output = arguments.output.resolve()
    overrides = tuple(arguments.override)
    setup = Setup(
        find_file(arguments.config_file), output, overrides, arguments.iterations, arguments.split
    )
    variants = choose_variants(setup, arguments.variants, arguments.ablation, arguments.weights)
    failures: list[str] = []
    if arguments.report_only and not (setup.datasets / "toy" / DESCRIPTION).exists():
        raise UserError(f"{output} contains no comparison to report")
    with alone_in(output) as lock:
        prepare_scenes(setup.datasets, arguments.train_scenes)
        evaluations = evaluations_of(setup, variants, arguments.seeds)
        if not arguments.report_only:
            schedule = Schedule(
                datasets=setup.datasets,
                command=command,
                jobs=arguments.jobs,
                lock=lock,
                log=lambda line: print(line, flush=True),
                summarize=lambda run: summarize(run, SPLITS[setup.split][0]),
            )
            schedule.execute(with_trainings(evaluations.values()))
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


def main(words: Sequence[str], command: Sequence[str] = TRAIN) -> int:
    """Parse a command line and run the comparison; see :func:`run`."""
    return run(parse_arguments(words), words, command)


def run(arguments: argparse.Namespace, words: Sequence[str], command: Sequence[str] = TRAIN) -> int:
    """Run the comparison and return the exit code.

    Args:
        arguments: the parsed command line.
        words: the command line, for the report.
        command: command of ``ita train``, without arguments.
    """
    try:
        with _signals_interrupt():
            compare(arguments, command, ["python", "tools/toy_comparison.py", *words])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command resumes from the last checkpoints.", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that no run outlives this process."""

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
