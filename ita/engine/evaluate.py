"""Evaluation of every test set of a config in one run, each with its own class list."""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm

from ita.build import inference_options
from ita.classes import ClassList
from ita.data.catalogue import SEMANTIC
from ita.data.loaders import RecordLoader, build_test_loader
from ita.data.mapper import InferenceMapper
from ita.data.registration import class_list_for
from ita.engine.loading import describe_source, source_of_list
from ita.engine.precision import describe_precision, matmul_dtype, tf32
from ita.engine.run_outputs import outlasting_write_errors
from ita.errors import UserError
from ita.evaluation.evaluators import build_evaluator
from ita.installing import installed_versions
from ita.meta_arch import ITA, Record
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.text_cache import FeatureCache
from ita.modeling.vocabulary import TextEncoder
from ita.progress import no_progress, show_progress
from ita.reports.evaluated_pictures import PicturesEvaluator
from ita.reports.run_report import write_report
from ita.reports.tables import format_class_table, format_table, write_results
from ita.segmenter import Segmenter
from ita.shortages import explained

logger = logging.getLogger(__name__)

# What takes less memory in evaluations; it changes results.
LESS_MEMORY = (
    "set a smaller INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST (such as 640 and 1066), or "
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON False"
)


class FailedTogether(UserError):
    """An image cannot be used; raised in all processes of a job."""


@dataclass(frozen=True)
class TestSet:
    """A data set to evaluate on: name, class list and this process's share of the images."""

    __test__ = False  # keeps pytest from collecting this class

    name: str
    class_list: ClassList
    loader: RecordLoader


def load_test_sets(cfg: CfgNode) -> list[TestSet]:
    """Load the data sets of ``DATASETS.TEST`` with the class lists of ``TEST_VOCABULARY``.

    Raises:
        UserError: a data set does not exist, or a class list does not fit its data set.
    """
    names = cfg.DATASETS.TEST
    files = tuple(cfg.DATASETS.TEST_VOCABULARY) or ("",)
    files = files * len(names) if len(files) == 1 else files
    class_lists = [class_list_for(name, file) for name, file in zip(names, files, strict=True)]
    return [
        TestSet(name, class_list, _build_loader(cfg, name))
        for name, class_list in zip(names, class_lists, strict=True)
    ]


def _build_loader(cfg: CfgNode, name: str) -> RecordLoader:
    mapper = InferenceMapper.for_dataset(
        name, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST
    )
    return build_test_loader(
        name, partial(_map_named, mapper), num_workers=cfg.DATALOADER.NUM_WORKERS
    )


def _map_named(mapper: InferenceMapper, record: Mapping[str, Any]) -> dict[str, Any]:
    """Map a record; the error for an image that does not fit into memory names its file."""
    with explained(LESS_MEMORY, str(record["file_name"])):
        return mapper(record)


def evaluate(
    cfg: CfgNode,
    model: ITA,
    test_sets: list[TestSet] | None = None,
    *,
    text: TextEncoder | None = None,
    run: Mapping[str, Any] | None = None,
    last: bool = True,
    failing_together: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Evaluate on every test set, log tables, write results.json and report.html to ``OUTPUT_DIR``.

    The model runs in float32, as for published numbers, unless ``TEST.AMP`` or ``TEST.TF32`` is on.
    Class names are always encoded in float32. Must be called in every process.

    Args:
        cfg: config of the run.
        model: model without a data-parallel wrapper.
        test_sets: test sets of the config, if they are loaded already.
        text: encoder of class names with the model's CLIP, to reuse the names it has encoded.
        run: entries to store with the results: the source of the training class list and, if known,
            of the weights (``load_model_and_source``). None if the list is that of the config.
        last: whether results that cannot be written are an error; otherwise they are logged only.
        failing_together: if an image cannot be used, raise the error in every process, once all
            have finished their images; otherwise only in the process that has it, at once.

    Returns:
        Data set -> task -> metrics (see ``build_evaluator``), and the pictures that were drawn (see
        ``PicturesEvaluator``); empty except on rank 0.

    Raises:
        UserError: an image cannot be used.
        WriteError: the results cannot be written, and they are the last.
    """
    cache = FeatureCache.of_user()
    text = text or TextEncoder(model.backbone, collective=True, cache=cache, progress=show_progress)
    results = {}
    for test_set in load_test_sets(cfg) if test_sets is None else test_sets:
        results[test_set.name] = _evaluate_one(cfg, model, test_set, text, failing_together)
    if not comm.is_main_process():
        return {}
    if results:
        source = source_of_list(cfg, model.train_class_list, None) if run is None else run
        entries = {
            "weights": cfg.MODEL.WEIGHTS,
            "precision": _precision(cfg),
            "versions": installed_versions(),
            "command": shlex.join(sys.argv),
            **source,
        }
        logger.info("Results (%s):\n%s", describe_source(source), format_table(results))
        path = Path(cfg.OUTPUT_DIR, "results.json")
        with outlasting_write_errors(last=last):
            write_results(results, path, run=entries)
            logger.info("Results, including those of each class: %s", path)
        if cfg.TEST.REPORT:
            _write_report(cfg)
    return results


def _write_report(cfg: CfgNode) -> None:
    """Write the report of the results that are on disk; a failure must not lose a training run."""
    try:
        path = write_report(Path(cfg.OUTPUT_DIR), config=cfg.dump())
    except Exception as error:
        reason = " ".join(str(error).split())
        logger.warning("no report was written (%s: %s)", type(error).__name__, reason)
    else:
        logger.info("Report: %s", path)


def _evaluate_one(
    cfg: CfgNode, model: ITA, test_set: TestSet, text: TextEncoder, failing_together: bool
) -> dict[str, dict[str, Any]]:
    seen = test_set.class_list.seen(model.train_class_list)
    logger.info(
        "Evaluating %d images of %s in %s with class list %s, %d of %d classes seen in training",
        test_set.loader.num_images,
        test_set.name,
        _precision(cfg),
        test_set.class_list.name,
        sum(seen),
        len(seen),
    )
    segmenter, evaluator = prepare_evaluation(cfg, model, test_set, text)
    # Rank 0 shows the progress of the whole job.
    progress = show_progress if comm.is_main_process() else no_progress
    shown = progress(f"evaluating {test_set.name}", test_set.loader.num_images, "images")
    with shown as advance, evaluation_precision(cfg):
        segment = partial(_segment_named, segmenter)
        counted = partial(advance, comm.get_world_size())
        callbacks: dict[str, Callable[[], None]] = {"after_inference": counted}
        with _errors_of_all() if failing_together else nullcontext() as meet:
            if meet:
                callbacks["on_end"] = meet
            results = inference_on_dataset(segment, test_set.loader, evaluator, callbacks)
    if comm.is_main_process() and "sem_seg" in results:
        table = format_class_table(test_set.class_list, results)
        logger.info("IoU of each class of %s\n%s", test_set.name, table)
    return results


@contextmanager
def _errors_of_all() -> Iterator[Callable[[], None]]:
    """Let all processes know of a ``UserError`` in the block before they go on together.

    Yields:
        To be called in the block when this process has finished its images; it raises the error
        of another process.
    """
    met = False

    def meet(problem: str = "") -> None:
        nonlocal met
        met = True
        if problem := next(filter(None, comm.all_gather(problem)), ""):
            raise FailedTogether(problem)

    try:
        yield meet
    except UserError as error:
        if met:
            raise
        with suppress(UserError, RuntimeError):  # also if another process has died meanwhile
            meet(str(error))
        raise FailedTogether(str(error)) from error.__cause__


def _segment_named(segmenter: Segmenter, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Segment records; the error for one that does not fit into memory names its file."""
    with explained(LESS_MEMORY, ", ".join(str(record["file_name"]) for record in records)):
        return segmenter(records)


def prepare_evaluation(
    cfg: CfgNode, model: ITA, test_set: TestSet, text: TextEncoder
) -> tuple[Segmenter, DatasetEvaluator]:
    """Encode the class list of a test set and build its evaluator; called in every process.

    Returns:
        A segmenter of the test set's records, and the evaluator of its outputs.
    """
    metadata = MetadataCatalog.get(test_set.name)
    options = _options_for(cfg, metadata.evaluator_type)
    pictures = None
    if cfg.TEST.NUM_PICTURES and (options.semantic or options.panoptic):
        pictures = _pictures_evaluator(cfg, model, test_set)
    evaluator = build_evaluator(
        test_set.name,
        test_set.class_list,
        model.train_class_list,
        semantic=options.semantic,
        panoptic=options.panoptic,
        instance=options.instance,
        dominant=model.dominant is not None,
        on_image=pictures.add_score if pictures else None,
    )
    if pictures:
        evaluator = DatasetEvaluators([evaluator, pictures])
    # Training and all evaluations share the encoded names, whatever the precision of each.
    with tf32(False, torch.device(cfg.MODEL.DEVICE)):
        vocabulary = model.make_vocabulary(test_set.class_list, text)
    return Segmenter(model, vocabulary, options), evaluator


def _pictures_evaluator(cfg: CfgNode, model: ITA, test_set: TestSet) -> PicturesEvaluator:
    return PicturesEvaluator(
        MetadataCatalog.get(test_set.name),
        test_set.class_list,
        tuple(test_set.class_list.seen(model.train_class_list)),
        Path(cfg.OUTPUT_DIR) / "inference" / test_set.name / "pictures",
        cfg.TEST.NUM_PICTURES,
    )


@contextmanager
def evaluation_precision(cfg: CfgNode) -> Iterator[None]:
    """Compute in the precision of evaluations (``TEST.AMP``, ``TEST.TF32``)."""
    device, dtype = _device_and_dtype(cfg)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with tf32(cfg.TEST.TF32, device), autocast:
        yield


def _device_and_dtype(cfg: CfgNode) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype of matrix products of evaluations."""
    device = torch.device(cfg.MODEL.DEVICE)
    return device, matmul_dtype(cfg.TEST.AMP, cfg.SOLVER.AMP.DTYPE, device)


def _precision(cfg: CfgNode) -> str:
    device, dtype = _device_and_dtype(cfg)
    return describe_precision(dtype, cfg.TEST.TF32, device)


def _options_for(cfg: CfgNode, evaluator_type: str) -> InferenceOptions:
    """Return the config's options, without panoptic and instance results on semantic data sets.

    This saves time and makes the mIoU equal to that of a separate run: the order of resizing
    depends on the requested results (design section 7).
    """
    options = inference_options(cfg)
    if evaluator_type == SEMANTIC and options.semantic:
        return replace(options, panoptic=False, instance=False)
    return options
