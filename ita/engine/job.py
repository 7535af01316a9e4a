"""Entry point of each process of a job: training, or evaluation only."""

import argparse
import logging
from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode

from ita.config import load_config
from ita.data.registration import register_all
from ita.engine.checkpoint import broadcast_weights, last_checkpoint
from ita.engine.dry_run import dry_run
from ita.engine.evaluate import evaluate, load_test_sets
from ita.engine.loading import load_model_and_source
from ita.engine.setup import (
    RunLog,
    choose_device,
    choose_seed,
    describe_run,
    require_device,
    seed_process,
)
from ita.engine.trainer import Trainer
from ita.errors import UserError
from ita.files import find_file
from ita.meta_arch import build_model
from ita.signals import STOPPED

logger = logging.getLogger(__name__)


def config_of(options: argparse.Namespace, warn: Callable[[str], None] = logger.warning) -> CfgNode:
    """Build the config of a command line; ``warn`` as for :func:`ita.config.load_config`.

    Raises:
        UserError: the file or an override is invalid.
    """
    misplaced = [word for word in options.opts if word.startswith("--")]
    if misplaced:
        raise UserError(f"{misplaced[0]} must come before the KEY VALUE pairs")
    if not options.config_file:
        raise UserError("--config-file is missing; the configs are in configs/")
    overrides = list(options.opts)
    if options.vocabulary:
        overrides += ["DATASETS.TEST_VOCABULARY", repr(tuple(options.vocabulary))]
    return load_config(find_file(options.config_file), overrides, warn)


def run_job(cfg: CfgNode, options: argparse.Namespace, *, warnings: Iterable[str] = ()) -> int:
    """Train, rehearse or evaluate; called in every process of the job.

    Args:
        cfg: from :func:`config_of`.
        options: of the command line.
        warnings: lines about the config, which is read before there is a log.

    Returns:
        Exit code: ``STOPPED`` if a signal ended the training early, else 0.

    Raises:
        UserError: an input is invalid, such as a file or a config key.
    """
    if not options.eval_only:
        require_device(cfg)
    log = start_process(cfg, warnings)
    if options.eval_only:
        evaluate_only(cfg, log, resume=options.resume)
        return 0
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=options.resume)
    if options.dry_run:
        dry_run(trainer)
        return 0
    log.open_folder(cfg)
    trainer.train()
    return STOPPED if trainer.stopped else 0


def start_process(cfg: CfgNode, warnings: Iterable[str] = ()) -> RunLog:
    """Start the log, register the data sets, choose device and seed; completes the config.

    Args:
        cfg: config of the job, changed in place.
        warnings: lines to log first.
    """
    log = RunLog()
    for line in warnings:
        logger.warning(line)
    register_all(cfg.DATASETS.CUSTOM)
    choose_device(cfg)
    describe_run(cfg)
    choose_seed(cfg)
    seed_process(cfg)
    return log


def evaluate_only(cfg: CfgNode, log: RunLog, *, resume: bool) -> None:
    """Evaluate ``MODEL.WEIGHTS`` or, with ``resume``, the last checkpoint of ``OUTPUT_DIR``."""
    test_sets = load_test_sets(cfg)
    if not test_sets:
        raise UserError("DATASETS.TEST is empty: there is nothing to evaluate")
    if resume:
        cfg.MODEL.WEIGHTS = last_checkpoint(cfg.OUTPUT_DIR) or cfg.MODEL.WEIGHTS
        if not cfg.MODEL.WEIGHTS:
            raise UserError(f"--resume: there is no checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR})")
    source = None
    if cfg.MODEL.WEIGHTS:
        model, source = load_model_and_source(cfg, cfg.MODEL.WEIGHTS)
    else:
        logger.warning("MODEL.WEIGHTS is empty: evaluating random weights")
        model = build_model(cfg).eval()
    broadcast_weights(model)
    log.open_folder(cfg)
    evaluate(cfg, model, test_sets, run=source)
