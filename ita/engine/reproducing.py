"""Reproduction of published results on every benchmark that is present, with a report."""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ita.data.catalogue import datasets_root
from ita.data.registration import register_all
from ita.engine.checkpoint import broadcast_weights
from ita.engine.evaluate import evaluate, load_test_sets
from ita.engine.finished import FINISHED, mark_finished, read_finished, versions
from ita.engine.launch import launch
from ita.engine.loading import load_model_and_source
from ita.engine.planning import Plan, SetPlan
from ita.engine.precision import matmul_dtype
from ita.engine.setup import RunLog, choose_device, choose_seed, describe_run, seed_process
from ita.errors import UserError
from ita.modeling.vocabulary import TextEncoder
from ita.reports.published import METRICS
from ita.reports.reproduction import Measurement, Reproduction

logger = logging.getLogger(__name__)


def reproduce(plan: Plan, args: argparse.Namespace) -> Reproduction:
    """Evaluate the data sets of a plan that are not finished, and collect all results.

    The results of a data set are stored when it is finished, so that an interrupted call can be
    repeated.

    Args:
        plan: from :func:`ita.engine.planning.make_plan`.
        args: processes to launch, as for :func:`ita.engine.launch.launch`.
    """
    pending = tuple(item for item in plan.sets if not item.finished)
    if pending:
        launch(partial(_evaluate_sets, sets=pending), plan.cfg, args)
    return Reproduction(
        title=plan.model.title,
        measurements=[_measurement(plan, item) for item in plan.sets],
        not_evaluated=plan.not_evaluated,
        facts=_facts(plan),
    )


def _evaluate_sets(cfg: CfgNode, args: argparse.Namespace, *, sets: Sequence[SetPlan]) -> None:
    """Evaluate data sets one after another with one model; called in every process."""
    log = RunLog()
    register_all(cfg.DATASETS.CUSTOM)
    choose_device(cfg)
    describe_run(cfg)
    choose_seed(cfg)
    seed_process(cfg)
    model, source = load_model_and_source(cfg, cfg.MODEL.WEIGHTS)
    broadcast_weights(model)
    log.open_folder(cfg)
    text = TextEncoder(model.backbone, collective=True)
    for item in sets:
        own = _config_for(cfg, item)
        test_sets = load_test_sets(own)
        start = time.perf_counter()
        evaluate(own, model, test_sets, text=text, run=source)
        seconds = time.perf_counter() - start
        if comm.is_main_process():
            finished = {
                "dependencies": item.dependencies,
                "precision": _precision(own),
                "seconds": seconds,
            }
            mark_finished(Path(own.OUTPUT_DIR), finished)
            logger.info("Finished %s", item.title)
        comm.synchronize()


def _config_for(cfg: CfgNode, item: SetPlan) -> CfgNode:
    """Config of a data set's evaluation, whose tasks and sizes depend on the data set only."""
    own = cfg.clone()
    own.DATASETS.TEST = (item.row.name,)
    own.DATASETS.TEST_VOCABULARY = (item.class_list_file,)
    own.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, item.row.family))
    return own


def _precision(cfg: CfgNode) -> str:
    """Name of the format of matrix products."""
    device = torch.device(cfg.MODEL.DEVICE)
    dtype = matmul_dtype(cfg.TEST.AMP, cfg.SOLVER.AMP.DTYPE, device)
    rounded = cfg.TEST.TF32 and device.type == "cuda" and dtype == torch.float32
    return "TF32" if rounded else str(dtype).removeprefix("torch.")


def _measurement(plan: Plan, item: SetPlan) -> Measurement:
    folder = Path(plan.cfg.OUTPUT_DIR, item.row.family)
    stored = read_finished(folder)
    if not stored:
        raise UserError(f"no results in {folder}; all machines must share the folder of --output")
    results, finished = stored["results"][item.row.name], stored["run"][FINISHED]
    images = results["info"]["images"]
    wanted = plan.model.training_class_list
    train_list_is_published = wanted in ("", PurePath(plan.train_class_list.name).name)
    is_published = item.published.class_list == PurePath(item.class_list.name).name
    return Measurement(
        title=item.title,
        metrics=_metrics(results),
        published=item.published,
        images=images,
        expected_images=item.expected_images,
        class_list=item.class_list.name,
        same_lists=is_published and train_list_is_published,
        precision=finished["precision"],
        seconds_per_image=finished["seconds"] / images,
    )


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Published metrics that have a value; stored results have null for NaN."""
    found = {name: results.get(task, {}).get(key) for name, (task, key) in METRICS.items()}
    return {name: value for name, value in found.items() if value is not None}


def _facts(plan: Plan) -> list[tuple[str, str]]:
    cfg, model = plan.cfg, plan.model
    path = Path(cfg.MODEL.WEIGHTS)
    return [
        ("published by", model.source or "no source"),
        ("checkpoint", str(path)),
        ("checkpoint SHA-256", plan.checkpoint_hash),
        ("config", model.config),
        ("config overrides", " ".join(plan.overrides) or "none"),
        ("training class list", plan.train_class_list.name),
        *((f"class list of {item.title}", _describe_list(plan, item)) for item in plan.sets),
        ("data sets", str(datasets_root())),
        ("device", plan.device),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
    ]


def _describe_list(plan: Plan, item: SetPlan) -> str:
    seen = sum(item.class_list.seen(plan.train_class_list))
    return f"{item.class_list.name}, {seen} of {len(item.class_list)} classes seen"
