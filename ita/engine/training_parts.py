"""Parts of a training, from its config."""

import inspect
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from torch.nn.parallel import DistributedDataParallel

from ita.build import inference_options
from ita.config import flatten
from ita.data.mapper import TrainingMapper
from ita.engine.evaluate import TestSet, load_test_sets
from ita.engine.hooks import WINDOW, ProgressWriter, TrainingBar
from ita.engine.nonfinite import NonFiniteSteps
from ita.engine.precision import matmul_dtype
from ita.engine.run_outputs import LenientWriter
from ita.engine.step import OptimizerStep
from ita.engine.trackers import TrackerWriter
from ita.errors import UserError
from ita.evaluation.evaluators import evaluated_tasks

# Option that synchronizes buffers in every step, renamed in newer versions of PyTorch.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


def scale_to_world(cfg: CfgNode, world_size: int) -> CfgNode:
    """Scale batch size, learning rate and schedule by Detectron2's REFERENCE_WORLD_SIZE rule.

    Raises:
        UserError: the batch size is not divisible by REFERENCE_WORLD_SIZE, or not by
            ``world_size`` times the accumulation steps.
    """
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference and batch % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH ({batch}) must be a multiple of SOLVER.REFERENCE_WORLD_SIZE "
            f"({reference})"
        )
    cfg = DefaultTrainer.auto_scale_workers(cfg, world_size)
    batch, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    if batch % (world_size * steps):
        raise UserError(
            f"SOLVER.IMS_PER_BATCH ({batch}) is the batch size of the whole job: it must be a "
            f"multiple of {world_size} processes × {steps} SOLVER.GRADIENT_ACCUMULATION_STEPS"
        )
    return cfg


def load_test_sets_first(cfg: CfgNode) -> list[TestSet]:
    """Load the test sets before training, so that a missing one is an error at once.

    Raises:
        UserError: see ``load_test_sets``; the message says how to train without evaluation.
    """
    try:
        return load_test_sets(cfg)
    except UserError as error:
        raise UserError(f'{error} (to train without evaluation, set DATASETS.TEST "()")') from error


def tasks_of(cfg: CfgNode, test_sets: Iterable[TestSet]) -> dict[str, list[str]]:
    """Evaluated tasks of each test set."""
    options = inference_options(cfg)
    requested = {
        "semantic": options.semantic,
        "panoptic": options.panoptic,
        "instance": options.instance,
    }
    return {
        test_set.name: sorted(evaluated_tasks(MetadataCatalog.get(test_set.name), **requested))
        for test_set in test_sets
    }


def build_training_mapper(cfg: CfgNode) -> TrainingMapper:
    """Build the mapper of a config's training set, which must be registered."""
    return TrainingMapper(
        MetadataCatalog.get(cfg.DATASETS.TRAIN[0]),
        image_size=cfg.INPUT.IMAGE_SIZE,
        min_scale=cfg.INPUT.MIN_SCALE,
        max_scale=cfg.INPUT.MAX_SCALE,
        flip=cfg.INPUT.RANDOM_FLIP,
        pad=cfg.INPUT.PAD_TO_IMAGE_SIZE,
    )


def build_step(
    cfg: CfgNode,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    nonfinite: NonFiniteSteps,
) -> OptimizerStep:
    """Build the optimizer step, over all processes of the job.

    Args:
        cfg: a complete config.
        model: the model, on its device.
        optimizer: optimizer of its trainable parameters.
        nonfinite: what follows a step with nan or inf.
    """
    device, clip = torch.device(cfg.MODEL.DEVICE), cfg.SOLVER.CLIP_GRADIENTS
    if comm.get_world_size() > 1:
        # Parameters are broadcast once, here; frozen ones then add no cost to a step.
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        model = DistributedDataParallel(model, **options)
    return OptimizerStep(
        model,
        optimizer,
        device=device,
        dtype=matmul_dtype(cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE, device),
        max_norm=clip.CLIP_VALUE if clip.ENABLED else float("inf"),
        norm_type=clip.NORM_TYPE,
        nonfinite=nonfinite,
    )


def build_outputs(cfg: CfgNode, start_iter: int, max_iter: int) -> list[HookBase]:
    """Build the hooks that show and write the scalars; they must be last to see all of them.

    Args:
        cfg: a complete config; its ``OUTPUT_DIR`` is created if necessary.
        start_iter: first iteration of this part of the run.
        max_iter: number of iterations of the whole run.

    Returns:
        None of them except on rank 0.
    """
    if not comm.is_main_process():
        return []
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / "metrics.json"
    writers: list[EventWriter] = [
        ProgressWriter(max_iter),
        LenientWriter(str(metrics), partial(JSONWriter, str(metrics))),
        LenientWriter(f"TensorBoard events in {folder}", partial(TensorboardXWriter, str(folder))),
    ]
    if tracker := cfg.SOLVER.TRACKER:
        config, resumed = dict(flatten(cfg)), start_iter > 0
        writers.append(TrackerWriter(tracker, folder, config, resumed=resumed))
    return [TrainingBar(start_iter, max_iter), hooks.PeriodicWriter(writers, period=WINDOW)]
