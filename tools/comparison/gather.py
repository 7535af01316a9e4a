"""Building a report from finished runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from comparison.report import Report
from comparison.runs import Run, Setup, measured
from comparison.summary import Comparison
from comparison.variants import BASE, SPLITS, Variant

# Number of digits of a commit hash in the report.
_SHORT = 10


def make_report(
    setup: Setup,
    variants: Sequence[Variant],
    reference: str,
    finished: Mapping[tuple[str, int], Run],
    command: Sequence[str],
) -> Report:
    """Build the report of finished evaluations.

    Args:
        setup: common setup of the runs.
        variants: variants in the order of table rows.
        reference: name of the variant that others are compared with.
        finished: evaluations by variant name and seed.
        command: command that ran them, as typed.
    """
    numbers: dict[str, dict[int, dict[str, float]]] = {}
    runs = []
    for (name, seed), run in sorted(finished.items(), key=lambda item: item[0][1]):
        numbers.setdefault(name, {})[seed] = measured(run)
        attempts = run.needs.record()["attempts"] + run.record()["attempts"]
        commits = sorted({_commit(attempt) for attempt in attempts})
        runs.append({"variant": name, "seed": seed, "commits": commits, **numbers[name][seed]})
    datasets = SPLITS[setup.split]
    titles = {variant.name: variant.title for variant in variants}
    return Report(
        title=f"ITA on the toy world, {setup.split} scenes",
        comparison=Comparison(titles, numbers, reference, datasets[0]),
        split=setup.split,
        datasets=datasets,
        command=[word for word in command if word != "--report-only"],
        facts=_facts(setup, variants, finished),
        runs=runs,
    )


def _facts(
    setup: Setup, variants: Sequence[Variant], finished: Mapping[tuple[str, int], Run]
) -> dict[str, str]:
    cfg = setup.config_of(BASE)
    dominant, learned = cfg.MODEL.ITA.NUM_DOMINANT, cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    solver = cfg.SOLVER
    trainings = {run.needs.folder: run.needs for run in finished.values()}.values()
    records = [run.record() for run in trainings]
    first = records[0]
    attempts = [attempt for record in records for attempt in record["attempts"]]
    attempts += [a for run in finished.values() for a in run.record()["attempts"]]
    resumed = sum(len(record["attempts"]) > 1 for record in records)
    facts = {
        "config": f"{setup.config_file}{_and(' with ', _pairs(setup.overrides))}",
        "training": f"{solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images, learning rate "
        f"{solver.BASE_LR:g}, {dominant} + {learned} queries, on {cfg.MODEL.DEVICE}",
        "seeds": ", ".join(str(seed) for seed in sorted({seed for _, seed in finished})),
        "scenes": _pairs_of(first["settings"]["scenes"]),
        "commit": _each(_commit(attempt) for attempt in attempts),
        "versions": _each(_pairs_of(attempt["versions"]) for attempt in attempts),
        "machine": _each(
            f"{a['machine']}; CPU threads of each run: {a['threads']}" for a in attempts
        ),
    }
    if resumed:
        facts["interrupted"] = f"{resumed} of {len(records)} trainings resumed from a checkpoint"
    for variant in variants:
        keys = variant.overrides | variant.at_test
        if shown := _pairs_of(keys):
            facts[variant.title] = shown
    return facts


def _commit(attempt: Mapping[str, Any]) -> str:
    changes = " with uncommitted changes" if attempt["uncommitted_changes"] else ""
    return attempt["commit"][:_SHORT] + changes


def _each(values: Iterable[str]) -> str:
    """Join unique values, in their order."""
    return "; ".join(dict.fromkeys(values))


def _pairs_of(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _pairs(words: Sequence[str]) -> str:
    return ", ".join(map(" ".join, zip(words[::2], words[1::2], strict=True)))


def _and(joint: str, text: str) -> str:
    return f"{joint}{text}" if text else ""
