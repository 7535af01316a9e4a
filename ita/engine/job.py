"""Entry point of each process of a job: training, or evaluation only."""

import argparse
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ita.config import load_config
from ita.data.registration import register_all
from ita.engine.checkpoint import broadcast_weights
from ita.engine.dry_run import dry_run
from ita.engine.evaluate import evaluate, load_test_sets
from ita.engine.file_check import check_files
from ita.engine.launch import place_in_job
from ita.engine.launch.restarts import is_restarted, mark_begun
from ita.engine.loading import load_model_and_source
from ita.engine.recovery import agree_on_resumable
from ita.engine.run_folder import RunFolder, evaluation_folder, refuse_run
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
    elif options.overwrite:
        raise UserError("--overwrite is for training; an evaluation never replaces results")
    seed_drawn = cfg.SEED < 0
    log = start_process(cfg, warnings)
    if options.eval_only:
        evaluate_only(cfg, log, resume=options.resume)
        return 0
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    place = place_in_job(options)
    if is_restarted(Path(cfg.OUTPUT_DIR), place):
        logger.warning("restarted by the launcher: continuing the run, as with --resume")
        options = argparse.Namespace(**{**vars(options), "resume": True, "overwrite": False})
    anew = not (options.resume or options.overwrite)
    if comm.is_main_process() and anew:
        refuse_run(Path(cfg.OUTPUT_DIR))
    if options.dry_run:
        dry_run(_load_trainer(cfg, resume=options.resume, seed_drawn=seed_drawn))
        return 0
    with claimed_by_main_process(cfg) as folder:
        trainer = _load_trainer(cfg, resume=options.resume, seed_drawn=seed_drawn)
        cfg.SEED = trainer.state.seed  # that of the checkpoint, for config.yaml
        if folder:
            folder.open()
            if anew:
                refuse_run(folder.path)  # of a job that was quicker to create the folder
            if options.overwrite:
                _discard_run(folder, cfg)
            mark_begun(folder.path, place)
        log.open_folder(cfg)
        trainer.train()
    return STOPPED if trainer.stopped else 0


def _load_trainer(cfg: CfgNode, *, resume: bool, seed_drawn: bool) -> Trainer:
    trainer = Trainer(cfg, seed_drawn=seed_drawn)
    trainer.resume_or_load(resume=resume)
    if cfg.DATALOADER.CHECK_FILES:
        check_files(cfg, trainer.data_loader, trainer.test_sets)
    return trainer


def _discard_run(folder: RunFolder, cfg: CfgNode) -> None:
    if cfg.MODEL.WEIGHTS and folder.would_discard(Path(cfg.MODEL.WEIGHTS)):
        raise UserError(
            f"--overwrite would remove MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}; copy the file out of "
            "OUTPUT_DIR first"
        )
    folder.discard_run()


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
    """Evaluate ``MODEL.WEIGHTS`` or, with ``resume``, the last checkpoint of ``OUTPUT_DIR``.

    Beside a run, the results get a folder of their own (:func:`evaluation_folder`).
    """
    test_sets = load_test_sets(cfg)
    if not test_sets:
        raise UserError("DATASETS.TEST is empty: there is nothing to evaluate")
    if cfg.DATALOADER.CHECK_FILES:
        check_files(cfg, None, test_sets)
    if resume:
        cfg.MODEL.WEIGHTS = str(agree_on_resumable(Path(cfg.OUTPUT_DIR)) or cfg.MODEL.WEIGHTS)
        if not cfg.MODEL.WEIGHTS:
            raise UserError(f"--resume: there is no checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR})")
    source = None
    if cfg.MODEL.WEIGHTS:
        model, source = load_model_and_source(cfg, cfg.MODEL.WEIGHTS)
    else:
        logger.warning("MODEL.WEIGHTS is empty: evaluating random weights")
        model = build_model(cfg).eval()
    broadcast_weights(model)
    folder = str(evaluation_folder(Path(cfg.OUTPUT_DIR))) if comm.is_main_process() else ""
    cfg.OUTPUT_DIR = comm.all_gather(folder)[0]
    with claimed_by_main_process(cfg) as claimed:
        if claimed:
            claimed.open()
        log.open_folder(cfg)
        evaluate(cfg, model, test_sets, run=source)


def claimed_by_main_process(cfg: CfgNode) -> AbstractContextManager[RunFolder | None]:
    """Claim ``OUTPUT_DIR`` for the job, inside the block; None in all processes but the main."""
    return RunFolder(Path(cfg.OUTPUT_DIR)) if comm.is_main_process() else nullcontext()
