"""Reproduction of published results on every benchmark that is present, with a report."""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from ita.classes import ClassList
from ita.data.catalogue import datasets_root
from ita.engine.benchmark_lists import difference, short_hash
from ita.engine.checkpoint import broadcast_weights
from ita.engine.evaluate import evaluate, load_test_sets
from ita.engine.finished import FINISHED, mark_finished, read_finished
from ita.engine.job import claimed_by_main_process, start_process
from ita.engine.launch import Failures, launch, place_in_job
from ita.engine.loading import describe_source, load_model_and_source
from ita.engine.planning import Plan, SetPlan, config_of_set
from ita.errors import UserError
from ita.installing import installed_versions
from ita.modeling.text_cache import FeatureCache
from ita.modeling.vocabulary import TextEncoder
from ita.progress import show_progress
from ita.reports.published import PUBLISHED_METRICS
from ita.reports.reproduction import Measurement, Reproduction

logger = logging.getLogger(__name__)


def evaluate_pending(
    plan: Plan | None, cfg: CfgNode, args: argparse.Namespace, failures: Failures
) -> None:
    """Evaluate the data sets of a plan that are not finished.

    The results of a data set are stored when it is finished, so that an interrupted call can be
    repeated. Called by each process that the user or a launcher started, all of which launch the
    job: what is pending is known to rank 0 only.

    Args:
        plan: from :func:`ita.engine.planning.make_plan`; None except where rank 0 is launched.
        cfg: config of the model, which selects the device; the rest is read from that of rank 0.
        args: processes to launch, as for :func:`ita.engine.launch.launch`.
        failures: of the enclosing :func:`ita.engine.launch.errors_in_one_line`.
    """
    pending = [item for item in plan.sets if not item.finished] if plan else []
    has_peers = place_in_job(args) is not None or args.num_machines > 1
    if pending or has_peers:
        launch(partial(_evaluate_sets, sets=pending), cfg, args, failures)


def collect(plan: Plan) -> Reproduction:
    """Collect the stored results of a plan whose data sets are all finished.

    Raises:
        UserError: there are no results of a data set.
    """
    stored = {item.row.family: _read_results(plan, item) for item in plan.sets}
    return Reproduction(
        title=plan.model.title,
        measurements=[_measurement(plan, item, stored[item.row.family]) for item in plan.sets],
        not_evaluated=plan.not_evaluated,
        facts=_facts(plan, [content["run"] for content in stored.values()]),
    )


def _evaluate_sets(cfg: CfgNode, args: argparse.Namespace, *, sets: Sequence[SetPlan]) -> None:
    """Evaluate data sets one after another with one model; called in every process."""
    # Other processes may see other files, so rank 0 decides for all.
    cfg, sets = comm.all_gather((cfg, sets))[0]
    if not sets:
        return
    log = start_process(cfg)
    model, source = load_model_and_source(cfg, cfg.MODEL.WEIGHTS)
    broadcast_weights(model)
    with claimed_by_main_process(cfg) as folder:
        if folder:
            folder.open()
        log.open_folder(cfg)
        text = TextEncoder(
            model.backbone,
            collective=True,
            cache=FeatureCache.of_user(),
            progress=show_progress,
        )
        for item in sets:
            own = config_of_set(cfg, item.settings)
            test_sets = load_test_sets(own)
            start = time.perf_counter()
            evaluate(own, model, test_sets, text=text, run=source)
            seconds = time.perf_counter() - start
            if comm.is_main_process():
                finished = {"dependencies": item.dependencies, "seconds": seconds}
                mark_finished(Path(own.OUTPUT_DIR), finished)
                logger.info("Finished %s", item.title)
            comm.synchronize()


def _read_results(plan: Plan, item: SetPlan) -> dict[str, Any]:
    folder = Path(config_of_set(plan.cfg, item.settings).OUTPUT_DIR)
    if stored := read_finished(folder):
        return stored
    raise UserError(f"the results in {folder} were removed; run the same command again")


def _measurement(plan: Plan, item: SetPlan, stored: Mapping[str, Any]) -> Measurement:
    results, run = stored["results"][item.row.name], stored["run"]
    images = results["info"]["images"]
    differences = {
        "class list": difference(item.class_list, item.published.class_list),
        "training class list": difference(plan.train_class_list, plan.model.training_class_list),
    }
    return Measurement(
        title=item.title,
        metrics=_metrics(results),
        published=item.published,
        images=images,
        expected_images=item.expected_images,
        class_list=item.class_list.name,
        list_difference=", ".join(f"{name} {text}" for name, text in differences.items() if text),
        precision=run["precision"],
        seconds_per_image=run[FINISHED]["seconds"] / images,
    )


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Published metrics that have a value; stored results have null for NaN."""
    found = {n: results.get(task, {}).get(key) for n, (task, key) in PUBLISHED_METRICS.items()}
    return {name: value for name, value in found.items() if value is not None}


def _facts(plan: Plan, runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    model = plan.model
    return [
        ("published by", model.source or "no source"),
        ("checkpoint", plan.cfg.MODEL.WEIGHTS),
        ("checkpoint SHA-256", plan.checkpoint_hash),
        # All stored results are of this checkpoint.
        *(("weights and seen classes", describe_source(run)) for run in runs[:1]),
        ("config", model.config),
        ("config overrides", " ".join(plan.overrides) or "none"),
        ("training class list", _describe_list(plan.train_class_list, model.training_class_list)),
        *((f"class list of {item.title}", _describe_test_list(plan, item)) for item in plan.sets),
        ("data sets", str(datasets_root())),
        ("device", plan.device),
        (
            "versions",
            ", ".join(f"{name} {version}" for name, version in installed_versions().items()),
        ),
    ]


def _describe_test_list(plan: Plan, item: SetPlan) -> str:
    seen = sum(item.class_list.seen(plan.train_class_list))
    return f"{_describe_list(item.class_list, item.published.class_list)}, {seen} seen"


def _describe_list(class_list: ClassList, published: str) -> str:
    text = f"{class_list.name}, hash {short_hash(class_list)}"
    if difference(class_list, published):
        text += f", not the published {published}"
    return f"{text}, {len(class_list)} classes"
