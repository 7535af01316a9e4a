"""Rehearsal of a training: its data, a step and an evaluation, to know memory and duration."""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.utils import comm

from ita.data.loaders import Batch
from ita.engine.evaluate import evaluation_precision, prepare_evaluation
from ita.engine.hooks import peak_memory
from ita.engine.precision import tf32
from ita.engine.trainer import LESS_MEMORY, Trainer
from ita.modeling.vocabulary import TextEncoder
from ita.shortages import explained

logger = logging.getLogger(__name__)

# Micro-batches that each process loads.
BATCHES = 10
# Steps, and images of a test set; the last is timed, as memory is set up and, on GPUs, kernels are
# compiled during the first. One that takes more than so many seconds is the last.
REPEATS, PATIENCE = 3, 10.0
UNITS = (86400, "days"), (3600, "hours"), (60, "minutes")


@dataclass(frozen=True)
class Rehearsal:
    """Measurements of a dry run, those of the slowest process.

    Attributes:
        load_seconds: seconds until the next micro-batch is loaded.
        step_seconds: seconds of an optimizer step, without loading.
        image_seconds: per test set, seconds to segment and evaluate an image.
        memory: peak memory of a process in bytes, see :func:`ita.engine.hooks.peak_memory`.
    """

    load_seconds: float
    step_seconds: float
    image_seconds: dict[str, float]
    memory: int


def dry_run(trainer: Trainer) -> None:
    """Rehearse a training and log what to expect of it; called in every process of the job.

    Loads ``BATCHES`` micro-batches, does up to ``REPEATS`` optimizer steps and evaluates as many
    images of each test set. Nothing is written but the user's cache of text features.

    Args:
        trainer: with its weights loaded (:meth:`Trainer.resume_or_load`), which the step changes.

    Raises:
        UserError: as in training, for example an image cannot be used.
    """
    load_seconds, batches = _load(trainer)
    text = trainer.encode_classes()
    step_seconds = _step(trainer, batches)
    image_seconds = _evaluate(trainer, text)
    memory = peak_memory(torch.device(trainer.cfg.MODEL.DEVICE))
    rehearsals = comm.gather(Rehearsal(load_seconds, step_seconds, image_seconds, memory))
    if comm.is_main_process():
        lines = "\n".join(describe(_slowest(rehearsals), trainer))
        logger.info("Dry run, nothing was written to OUTPUT_DIR\n%s", lines)


def describe(measured: Rehearsal, trainer: Trainer) -> list[str]:
    """Describe a rehearsal and the training that it stands for, in lines."""
    cfg, processes = trainer.cfg, comm.get_world_size()
    batch, parts = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    loading = measured.load_seconds * parts
    per_iteration = max(measured.step_seconds, loading)
    if not cfg.DATALOADER.NUM_WORKERS:  # loading and training take turns
        per_iteration = measured.step_seconds + loading
    iterations = max(trainer.max_iter - trainer.start_iter, 0)
    evaluation = sum(
        test_set.loader.num_images * measured.image_seconds[test_set.name] / processes
        for test_set in trainer.test_sets
    )
    evaluations = _number_of_evaluations(trainer) if trainer.test_sets else 0
    training, evaluation = iterations * per_iteration, evaluations * evaluation
    lines = [
        f"loading     {batch / max(loading, 1e-9):.3g} images/s with "
        f"{cfg.DATALOADER.NUM_WORKERS} workers for each of {processes} processes",
        f"step        {measured.step_seconds:.3g} s for {batch} images, "
        f"{batch / measured.step_seconds:.3g} images/s",
        f"memory      {_describe_memory(measured.memory, torch.device(cfg.MODEL.DEVICE))}",
    ]
    for name, seconds in measured.image_seconds.items():
        lines.append(f"evaluation  {seconds:.3g} s for an image of {name} in each process")
    lines.append(
        f"whole run   {iterations:,} iterations and {evaluations:,} evaluations in about "
        f"{_duration(training + evaluation)}, {_duration(evaluation)} of that for evaluation"
    )
    return lines


def _load(trainer: Trainer) -> tuple[float, list[Batch]]:
    """Load micro-batches; the seconds per batch are those after the first."""
    assert trainer.data_loader is not None
    logger.info("Dry run: loading %d batches", BATCHES)
    loader = iter(trainer.data_loader)
    batches = [next(loader)]
    start = time.perf_counter()
    batches += itertools.islice(loader, BATCHES - 1)
    for reason in trainer.data_loader.bad_images.values():
        logger.warning("bad image, another takes its place: %s", reason)
    return (time.perf_counter() - start) / (BATCHES - 1), batches


def _step(trainer: Trainer, batches: Sequence[Batch]) -> float:
    """Do optimizer steps and return the seconds of the last."""
    device = torch.device(trainer.cfg.MODEL.DEVICE)
    endless, seconds = itertools.cycle(batches), 0.0
    logger.info("Dry run: a step of %d images", trainer.cfg.SOLVER.IMS_PER_BATCH)
    with tf32(trainer.cfg.SOLVER.TF32, device):
        for iteration in range(REPEATS):
            start = time.perf_counter()
            parts = list(itertools.islice(endless, trainer.cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS))
            with explained(LESS_MEMORY):
                trainer.step(parts, iteration=iteration)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            if max(comm.all_gather(seconds)) > PATIENCE:  # processes step together
                break
    return seconds


def _evaluate(trainer: Trainer, text: TextEncoder) -> dict[str, float]:
    """Segment and evaluate the first images of each test set, without computing metrics.

    Returns:
        Seconds of the last of these images, for each test set.
    """
    seconds = {}
    for test_set in trainer.test_sets:
        segmenter, evaluator = prepare_evaluation(trainer.cfg, trainer.model, test_set, text)
        logger.info("Dry run: evaluating an image of %s", test_set.name)
        images = itertools.islice(test_set.loader, REPEATS)
        evaluator.reset()
        seconds[test_set.name] = 0.0  # of a process without images
        with torch.no_grad(), evaluation_precision(trainer.cfg):
            for batch in images:
                start = time.perf_counter()
                evaluator.process(batch, segmenter(batch))
                seconds[test_set.name] = time.perf_counter() - start
                if seconds[test_set.name] > PATIENCE:
                    break
    return seconds


def _slowest(rehearsals: Sequence[Rehearsal]) -> Rehearsal:
    names = rehearsals[0].image_seconds
    return Rehearsal(
        load_seconds=max(r.load_seconds for r in rehearsals),
        step_seconds=max(r.step_seconds for r in rehearsals),
        image_seconds={name: max(r.image_seconds[name] for r in rehearsals) for name in names},
        memory=max(r.memory for r in rehearsals),
    )


def _number_of_evaluations(trainer: Trainer) -> int:
    """Number of evaluations of the remaining iterations, the last one at their end."""
    period, start = trainer.cfg.TEST.EVAL_PERIOD, trainer.start_iter
    if period <= 0 or start >= trainer.max_iter:
        return 1
    return (trainer.max_iter - 1) // period - start // period + 1


def _duration(seconds: float) -> str:
    size, unit = next((unit for unit in UNITS if seconds >= unit[0]), UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def _describe_memory(peak: int, device: torch.device) -> str:
    if device.type != "cuda":
        return f"{peak / 1e9:.1f} GB in each process, without data loader workers"
    total = torch.cuda.get_device_properties(device).total_memory
    return f"{peak / 1e9:.1f} of {total / 1e9:.1f} GB on each GPU"
