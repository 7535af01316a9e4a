"""Training: Detectron2's loop and hooks around a custom optimizer step."""

import logging
import sys
import time
import weakref
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.utils import comm

from ita.data.loaders import RecordLoader, build_train_loader
from ita.engine.best import BestCheckpoint, check_best_metric
from ita.engine.checkpointer import Checkpointer
from ita.engine.evaluate import FailedTogether, evaluate
from ita.engine.feed import Feed
from ita.engine.hooks import PeriodicCheckpoints, SkippedImages, Throughput
from ita.engine.loading import source_of_list
from ita.engine.nonfinite import NonFiniteSteps
from ita.engine.optimizer import build_lr_scheduler, build_optimizer
from ita.engine.precision import tf32
from ita.engine.recovery import Retention
from ita.engine.run_outputs import RecentScalars, outlasting_write_errors, quiet_event_threads
from ita.engine.state import RunState, deterministic, seed_step
from ita.engine.trackers import require_tracker
from ita.engine.training_parts import (
    build_outputs,
    build_step,
    build_training_mapper,
    load_test_sets_first,
    scale_to_world,
    tasks_of,
)
from ita.errors import UserError
from ita.meta_arch import build_model
from ita.modeling.storage import reason
from ita.modeling.text_cache import FeatureCache
from ita.modeling.vocabulary import TextEncoder
from ita.progress import show_progress
from ita.reports.tables import scalars
from ita.shortages import Shortage, explain, shortage_of
from ita.signals import StopSignals, ended_workers_ignored, noted_signals

logger = logging.getLogger(__name__)

# What takes less memory in training: the first leaves the step as it is.
LESS_MEMORY = (
    "set SOLVER.GRADIENT_ACCUMULATION_STEPS 2, SOLVER.AMP.ENABLED True, or a smaller "
    "SOLVER.IMS_PER_BATCH or INPUT.IMAGE_SIZE"
)


class Trainer(TrainerBase):
    """Trains the config's model on its training sets, with Detectron2's hooks.

    Detectron2's ``DefaultTrainer`` cannot be the base class: its mixed precision requires CUDA and
    its data parallelism device ids.

    Attributes:
        cfg: the config, scaled to the number of processes if REFERENCE_WORLD_SIZE is set.
        model: the model without its data-parallel wrapper, which only the step uses.
        results: results of the last evaluation.
        stopped: whether a signal or a bad image ended the training early.
    """

    iter: int
    start_iter: int

    def __init__(self, cfg: CfgNode, *, seed_drawn: bool = False) -> None:
        """Build model, optimizer and hooks; nothing is written yet.

        Args:
            cfg: config of the run; a seed is drawn if ``SEED`` is negative.
            seed_drawn: whether ``SEED`` was drawn before.

        Raises:
            UserError: the batch size is not divisible by processes and accumulation steps, or data
                sets or CLIP weights are missing or invalid.
        """
        super().__init__()
        self.cfg = cfg = scale_to_world(cfg, comm.get_world_size())
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.test_sets = load_test_sets_first(cfg)
        check_best_metric(cfg.TEST.BEST_METRIC, tasks_of(cfg, self.test_sets))
        require_tracker(cfg.SOLVER.TRACKER)
        self.mapper = build_training_mapper(cfg)
        self.model = build_model(cfg)
        self.model.train()
        self.optimizer = build_optimizer(cfg, self.model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        seed = comm.shared_random_seed() if cfg.SEED < 0 else cfg.SEED
        self.state = RunState(seed, seed_drawn=seed_drawn or cfg.SEED < 0)
        self.nonfinite = NonFiniteSteps(cfg.SOLVER.ON_NONFINITE, self.state)
        self.step = build_step(cfg, self.model, self.optimizer, self.nonfinite)
        self.checkpointer = Checkpointer(
            self.model,
            cfg.OUTPUT_DIR,
            retention=Retention(
                last=cfg.SOLVER.CHECKPOINT_KEEP_LAST, every=cfg.SOLVER.CHECKPOINT_KEEP_EVERY
            ),
            trainer=weakref.proxy(self),
        )
        self.best: BestCheckpoint | None = None
        if cfg.TEST.BEST_METRIC and self.test_sets and comm.is_main_process():
            self.best = BestCheckpoint(self.checkpointer, cfg.TEST.BEST_METRIC)
        self.data_loader: RecordLoader | None = None
        # Set once CLIP's weights are final.
        self._text: TextEncoder | None = None
        self.results: dict[str, dict[str, Any]] = {}
        self.stopped = False
        self._failure = ""
        self._signals = StopSignals()
        self.register_hooks(self._build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from ``OUTPUT_DIR``'s last checkpoint, or else start from ``MODEL.WEIGHTS``.

        A last checkpoint that is missing or damaged is replaced by the newest intact one.

        Raises:
            UserError: the checkpoint does not exist, is damaged or does not fit.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if self.checkpointer.resumed_from is not None:
            # A checkpoint stores the last finished iteration.
            self.start_iter = self.iter + 1
            if self.best is not None:
                self.best.resume()
            logger.info("Resuming at iteration %d of %d", self.start_iter, self.max_iter)
        self.data_loader = self._build_data_loader()

    def train(self) -> dict[str, dict[str, Any]]:
        """Train up to ``MAX_ITER`` and evaluate; a finished run is only evaluated.

        After SIGINT, SIGTERM, SIGHUP or SIGUSR1 to any process, all finish the step in progress,
        a checkpoint is saved, and ``stopped`` is set. A second signal ends a process at once. If a
        process meets a bad image, all finish and save the step before it.

        Returns:
            Results of the last evaluation (see ``evaluate``), empty except on rank 0.

        Raises:
            UserError: training diverged, or an image cannot be used.
        """
        if self.start_iter >= self.max_iter:
            logger.info(
                "Nothing to train: %s has finished all %d iterations",
                self.checkpointer.resumed_from,
                self.max_iter,
            )
            self._evaluate()
            return self.results
        self._text = self.encode_classes()
        self.nonfinite.folder = Path(self.cfg.OUTPUT_DIR)
        outputs = build_outputs(self.cfg, self.start_iter, self.max_iter)
        self.register_hooks(outputs)
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        self.iter = self.start_iter
        precision = tf32(self.cfg.SOLVER.TF32, torch.device(self.cfg.MODEL.DEVICE))
        exactness = deterministic(self.cfg.SOLVER.DETERMINISTIC)
        outlasting = quiet_event_threads()
        with RecentScalars(self.start_iter) as self.storage, precision, exactness, outlasting:
            try:
                with noted_signals() as self._signals:
                    self._run()
            except BaseException as error:
                with ended_workers_ignored():
                    for hook in outputs:
                        hook.after_train()  # write the last measurements before the error
                    self._end_by_shortage(error)
                raise
            if self.stopped:
                for hook in outputs:
                    hook.after_train()
        del self._feed  # ends the data loader workers, which must not outlive their process
        if self._failure:
            comm.synchronize()  # the end of a process ends the others, one of which saves
            raise UserError(
                f"{self._failure}; saved after iteration {self.iter + 1} of {self.max_iter}: mend "
                "the data and continue with --resume"
            )
        return self.results

    def encode_classes(self) -> TextEncoder:
        """Encode the training classes; called in every process once CLIP's weights are final.

        Returns:
            The encoder, which evaluations share.
        """
        cache = FeatureCache.of_user()
        text = TextEncoder(
            self.model.backbone, collective=True, cache=cache, progress=show_progress
        )
        with tf32(False, torch.device(self.cfg.MODEL.DEVICE)):  # as in evaluations
            self.model.prepare_training(text)
        return text

    def run_step(self) -> None:
        """Fetch the micro-batches of a step, update the weights and record the measurements."""
        start = time.perf_counter()
        batches = self._feed.advance(last=self.iter + 1 == self.max_iter)
        seed_step(self.state.seed, self.iter, comm.get_rank())
        report = self.step(
            batches,
            data_time=time.perf_counter() - start,
            iteration=self.iter,
            stop=bool(self._signals.received),
            news=self._feed.has_news,
        )
        if report.news:
            self._failure = self._feed.exchange_news()
        self.stopped = report.stop or bool(self._failure)
        self.state.position += self.cfg.SOLVER.IMS_PER_BATCH
        measured = {"data_time": report.data_time}
        if report.nonfinite:
            count = self.nonfinite.skipped
            self.storage.put_scalar("nonfinite_steps", count, smoothing_hint=False)
        else:
            measured |= {"total_loss": sum(report.losses.values()), **report.losses}
            if not report.skipped:
                measured["grad_norm"] = report.grad_norm
        self.storage.put_scalars(**measured)
        if self._max_bad_images:
            self.storage.put_scalar("bad_images", len(self._feed.bad_images), smoothing_hint=False)
        if self.step.scaler.is_enabled():
            self.storage.put_scalars(
                grad_scale=report.grad_scale,
                skipped_steps=self.step.skipped,
                smoothing_hint=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """State of iteration, schedule (in its hook), optimizer, loss scale, seed and position."""
        own = {"step": self.step.state_dict(), "run": self.state.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of another run."""
        super().load_state_dict(state_dict)
        self.step.load_state_dict(state_dict["step"])
        if "run" in state_dict:
            self.state.load_state_dict(state_dict["run"])
        else:
            self.state.position = (self.iter + 1) * self.cfg.SOLVER.IMS_PER_BATCH
            logger.warning(
                "the checkpoint is of a version without exact resumption: the run goes on with the "
                "images of SEED %d from the same position on",
                self.state.seed,
            )

    def _build_data_loader(self) -> RecordLoader:
        """Build an endless loader of this process's micro-batches, from the run's position on."""
        solver = self.cfg.SOLVER
        loader = build_train_loader(
            self.cfg.DATASETS.TRAIN,
            self.mapper,
            total_batch_size=solver.IMS_PER_BATCH // solver.GRADIENT_ACCUMULATION_STEPS,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
            seed=self.state.seed,
            start=self.state.position,
            pin_memory=self.cfg.MODEL.DEVICE.startswith("cuda"),
            max_bad_images=self._max_bad_images,
        )
        self.state.begin(loader.num_images, comm.get_world_size())
        return loader

    @property
    def _max_bad_images(self) -> int:
        loading = self.cfg.DATALOADER
        return loading.MAX_BAD_IMAGES if loading.ON_ERROR == "skip" else 0

    @cached_property
    def _feed(self) -> Feed:
        if self.data_loader is None:
            self.data_loader = self._build_data_loader()
        return Feed(
            self.data_loader,
            parts=self.cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS,
            max_bad_images=self._max_bad_images,
        )

    def _run(self) -> None:
        """Run Detectron2's loop, but without a traceback and an evaluation after an error."""
        self.before_train()
        self._feed.start()
        for iteration in range(self.start_iter, self.max_iter):
            self.iter = iteration
            self.before_step()
            self.run_step()
            self.after_step()
            if self.stopped:
                self._save_stopped()
                return
        self.iter += 1
        self.after_train()

    def _save_stopped(self) -> None:
        name = f"model_{self.iter:07d}"  # as periodic checkpoints
        self.checkpointer.save(name, iteration=self.iter)
        if self._failure:
            return  # which the error tells
        logger.warning(
            "stopped%s after iteration %d of %d; --resume continues",
            f" by {self._signals.name}" if self._signals.received else "",
            self.iter + 1,
            self.max_iter,
        )

    def _save_before_evaluation(self) -> None:
        """Save the finished steps when an evaluation fails, unless they are saved already."""
        path = Path(self.cfg.OUTPUT_DIR, f"model_{self.iter:07d}.pth")
        if comm.is_main_process() and self.start_iter <= self.iter < self.max_iter:
            if self.checkpointer.last_saved != path:
                self.checkpointer.save(path.stem, iteration=self.iter)
            logger.warning("the evaluation failed; --resume continues after it")

    def _end_by_shortage(self, error: BaseException) -> None:
        """If the machine has run out of something, save the finished steps and end in one line.

        Raises:
            UserError: it has.
        """
        told = isinstance(error, UserError)
        cause = error.__cause__ if told else error
        if cause is None or shortage_of(cause) in (None, Shortage.DISK):
            return
        finished = self.scheduler.last_epoch
        text = str(error) if told else explain(cause, LESS_MEMORY)
        text += f"; training ended in iteration {self.iter}"
        # What the weights have seen, the schedule has counted too.
        whole = self.step.begun < finished
        if comm.is_main_process() and finished > self.start_iter and whole:
            self.iter = finished - 1
            try:
                self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
                text += f", and --resume continues after {finished} iterations"
            except Exception as failure:  # of a GPU that is out of memory, almost any
                text += f"; no checkpoint could be written ({reason(failure)})"
        raise UserError(text) from error

    def _build_hooks(self) -> list[HookBase | None]:
        cfg, main = self.cfg, comm.is_main_process()
        # Without a period, checkpoint and evaluate only at the end.
        checkpoint_period = (
            cfg.SOLVER.CHECKPOINT_PERIOD if cfg.SOLVER.CHECKPOINT_PERIOD > 0 else sys.maxsize
        )
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            Throughput(cfg.SOLVER.IMS_PER_BATCH, torch.device(cfg.MODEL.DEVICE)),
            SkippedImages(self.mapper.num_skipped),
            PeriodicCheckpoints(self.checkpointer, checkpoint_period) if main else None,
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate) if self.test_sets else None,
        ]

    def _evaluate(self) -> dict[str, float]:
        """Evaluate on all test sets and return the scalars for the event storage."""
        iteration = min(self.iter + 1, self.max_iter)
        source = source_of_list(self.cfg, self.model.train_class_list, None)
        run = {"iteration": iteration, "during_training": True, **source}
        last = iteration >= self.max_iter
        try:
            self.results = evaluate(
                self.cfg,
                self.model,
                self.test_sets,
                text=self._text,
                run=run,
                last=last,
                failing_together=True,
            )
        except FailedTogether:
            self._save_before_evaluation()
            comm.synchronize()  # the end of a process ends the others, one of which saves
            raise
        except Exception:
            self._save_before_evaluation()
            raise
        measured = {
            f"{name}/{metric}": value
            for name, result in self.results.items()
            for metric, value in scalars(result).items()
        }
        if self.best is not None:
            with outlasting_write_errors(last=last):
                self.best.update(measured, iteration)
        return measured
