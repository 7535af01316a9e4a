"""Plan of a reproduction: model, class lists and data sets, known before anything is evaluated."""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import Tensor

from ita.classes import ClassList
from ita.data.catalogue import CATALOGUE, DatasetRow
from ita.data.checking import Report, check_dataset
from ita.data.registration import class_list_for, register_all
from ita.engine.benchmark_lists import evaluation_list_file, list_file
from ita.engine.checkpoint import local_path, read_checkpoint, trained_class_list
from ita.engine.finished import (
    changes,
    dependencies_of_run,
    dependencies_of_set,
    read_finished,
)
from ita.engine.job import config_of
from ita.engine.loading import seen_class_list
from ita.engine.setup import choose_device
from ita.errors import UserError, did_you_mean
from ita.files import sha256_of
from ita.modeling.conversion import convert_state_dict
from ita.reports.published import (
    TABLE,
    Features,
    PublishedModel,
    PublishedResult,
    Table,
    read_table,
)
from ita.reports.reproduction import DECIDING, NotEvaluated, describe_images

# Tensors whose shapes are the features of a model, in this project's names.
_EMBEDDING = "decoder.head.class_embed.layers.2.weight"
_LAST_STAGE = "pixel_decoder.input_proj.res5.0.weight"
_DOMINANT = "dominant.projection.weight"
# Config keys that options of the command set.
_OPTION_OF_KEY = {
    "MODEL.WEIGHTS": "--weights",
    "OUTPUT_DIR": "--output",
    "DATASETS.TEST": "--set",
    "DATASETS.TEST_VOCABULARY": "--class-lists",
}


@dataclass(frozen=True)
class Request:
    """Options of a reproduction.

    Attributes:
        weights: path or URL of the checkpoint.
        output: folder of the results.
        class_lists: folder of the published class lists; "" uses the packaged ones.
        published: file of published results; "" uses the packaged ones.
        model: name in the table of published results; "" recognizes the checkpoint.
        config_file: config of the model; "" uses that of the table.
        families: data sets to evaluate; empty selects those that are present.
        subset: evaluate data sets with some of their images.
        redo: evaluate finished data sets again.
        overrides: config keys and values, alternating.
    """

    weights: str
    output: Path
    class_lists: str = ""
    published: str = ""
    model: str = ""
    config_file: str = ""
    families: Sequence[str] = ()
    subset: bool = False
    redo: bool = False
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class SetPlan:
    """A data set to evaluate.

    Attributes:
        row: the data set.
        title: name of the data set in the literature.
        published: published results.
        settings: config keys and values of the set's evaluation, alternating.
        class_list: the class list.
        num_images: number of images with labels.
        dependencies: what the results depend on.
        stored: whether there are stored results, which may be outdated.
        changed: dependencies that have changed since results were stored.
    """

    row: DatasetRow
    title: str
    published: PublishedResult
    settings: Sequence[Any]
    class_list: ClassList
    num_images: int
    dependencies: Mapping[str, str] = field(default_factory=dict)
    stored: bool = False
    changed: Sequence[str] = ()

    @property
    def expected_images(self) -> int:
        """Number of images of the published results."""
        return self.published.images or self.row.num_images

    @property
    def finished(self) -> bool:
        """Whether stored results are valid."""
        return self.stored and not self.changed


@dataclass(frozen=True)
class Subject:
    """The model to evaluate, known from the checkpoint alone.

    Attributes:
        table: published results.
        model: the model and its published results.
        path: local path of the checkpoint.
        trained: class list in the checkpoint, if any.
        cfg: config of the model.
    """

    table: Table
    model: PublishedModel
    path: Path
    trained: ClassList | None
    cfg: CfgNode


@dataclass(frozen=True)
class Plan:
    """Everything that is known before data sets are evaluated.

    Attributes:
        cfg: config of the model.
        model: the model and its published results.
        train_class_list: training class list, which determines the seen classes.
        sets: data sets to evaluate, or evaluated already.
        not_evaluated: the other data sets.
        checkpoint_hash: SHA-256 of the checkpoint.
        device: name of the device.
        overrides: config keys and values of the request, alternating.
    """

    cfg: CfgNode
    model: PublishedModel
    train_class_list: ClassList
    sets: Sequence[SetPlan]
    not_evaluated: Sequence[NotEvaluated]
    checkpoint_hash: str
    device: str
    overrides: Sequence[str]


def recognize(request: Request) -> Subject:
    """Choose the model of a checkpoint and its config; the data sets are not looked at.

    Raises:
        UserError: the checkpoint is missing, invalid or not recognized.
    """
    table = read_table(request.published or TABLE)
    path = local_path(request.weights)
    checkpoint = read_checkpoint(path)
    model = choose_model(table, checkpoint["model"], request)
    trained = trained_class_list(checkpoint, request.weights)
    cfg = _config(request, model, has_own_list=trained is not None)
    return Subject(table, model, path, trained, cfg)


def make_plan(request: Request, subject: Subject) -> Plan:
    """Check the data and the class lists, and find stored results; the model is not built.

    Raises:
        UserError: a file is missing or invalid.
    """
    cfg = subject.cfg
    register_all(cfg.DATASETS.CUSTOM)
    sets, not_evaluated = _survey(request, subject.table, subject.model)
    train_class_list = seen_class_list(cfg, subject.trained)
    checkpoint_hash, device = sha256_of(subject.path), _device_name(cfg)
    shared = dependencies_of_run(cfg, checkpoint_hash, train_class_list, device)
    return Plan(
        cfg=cfg,
        model=subject.model,
        train_class_list=train_class_list,
        sets=[_compare_with_stored(request, item, cfg, shared) for item in sets],
        not_evaluated=not_evaluated,
        checkpoint_hash=checkpoint_hash,
        device=device,
        overrides=request.overrides,
    )


def config_of_set(cfg: CfgNode, settings: Sequence[Any]) -> CfgNode:
    """Config of a data set's evaluation, from the model's and the settings of the set."""
    own = cfg.clone()
    own.merge_from_list(list(settings))
    return own


def choose_model(table: Table, weights: Mapping[str, Tensor], request: Request) -> PublishedModel:
    """Choose a model of the table, by name or else by the features of a checkpoint.

    With a config file, a model without published results is accepted.

    Raises:
        UserError: an unknown name, or features that no model, or several, of the table have.
    """
    names = ", ".join(table.models)
    if request.model and request.model not in table.models:
        hint = did_you_mean(request.model, table.models) or f"{table.path} has {names}"
        raise UserError(f"unknown model {request.model}; {hint}")
    features = features_of(weights)
    if request.model:
        found = [table.models[request.model]]
    else:
        models = table.models.values()
        found = [m for m in models if m.features and m.features == features]
        if not found and len(models) == 1:  # a table of one's own model need not describe it
            found = [m for m in models if m.features is None]
    if request.config_file:
        file = request.config_file
        chosen = found[0] if len(found) == 1 else PublishedModel(name=file, title=file, config=file)
        return replace(chosen, config=file)
    if len(found) != 1:
        raise UserError(
            f"{request.weights} is not recognized as a model of {table.path} "
            f"({features or 'not weights of this project or of FC-CLIP'}); pass --model NAME "
            f"({names}) or --config-file FILE"
        )
    return found[0]


def features_of(weights: Mapping[str, Tensor]) -> Features | None:
    """Return the features of a checkpoint of this project, of FC-CLIP or of the first release.

    Returns:
        None if the checkpoint is none of these.
    """
    converted = convert_state_dict(dict(weights))
    if _EMBEDDING not in converted or _LAST_STAGE not in converted:
        return None
    return Features(
        embedding=converted[_EMBEDDING].shape[0],
        last_stage=converted[_LAST_STAGE].shape[1],
        dominant=_DOMINANT in converted,
    )


def _config(request: Request, model: PublishedModel, *, has_own_list: bool) -> CfgNode:
    keys = request.overrides[::2]
    if taken := [key for key in keys if key in _OPTION_OF_KEY]:
        raise UserError(f"{taken[0]} cannot be set here; use {_OPTION_OF_KEY[taken[0]]}")
    overrides = ["MODEL.WEIGHTS", request.weights, "OUTPUT_DIR", str(request.output)]
    if not has_own_list and (file := list_file(model.training_class_list, request.class_lists)):
        overrides += ["DATASETS.TRAIN_VOCABULARY", file]
    # The user's keys come last, so that they prevail.
    words = [*overrides, *request.overrides]
    return config_of(argparse.Namespace(config_file=model.config, opts=words, vocabulary=None))


def _survey(
    request: Request, table: Table, model: PublishedModel
) -> tuple[list[SetPlan], list[NotEvaluated]]:
    """Check the data sets in the order of the table."""
    rows = {row.family: row for row in CATALOGUE if row.split == "val"}
    sets, not_evaluated = [], []
    for family, data_set in table.data_sets.items():
        if request.families and family not in request.families:
            continue
        row, published = rows[family], table.published(model, family)
        # Published results on fewer images are compared on these, which are counted below.
        subset = request.subset or published.images > 0
        report = check_dataset(
            row, subset=subset, deep=False, workers=1, progress=lambda items, *_: items
        )
        reason = ""
        if report.problems:
            reason = f"{report.problems[0]}; remedy: {report.remedy}"
        elif report.num_images < published.images and not request.subset:
            reason = (
                f"images with labels: {report.num_images:,}, not the {published.images:,} of the "
                "published results; remedy: add the others, or pass --subset"
            )
        if reason:
            compared = DECIDING in published.metrics and _is_present(report)
            required = bool(request.families) or compared
            not_evaluated.append(NotEvaluated(data_set.title, reason, required))
            continue
        file = evaluation_list_file(published, data_set, request.class_lists, request.output)
        sets.append(
            SetPlan(
                row=row,
                title=data_set.title,
                published=published,
                settings=_settings(request, row, file),
                class_list=class_list_for(row.name, file),
                num_images=report.num_images,
            )
        )
    return sets, not_evaluated


def _is_present(report: Report) -> bool:
    """Whether a data set is on disk, complete or not; one that cannot be loaded has no images."""
    on_disk = report.download in ("complete", "part") or report.prepared in ("yes", "part")
    return on_disk or report.num_images > 0


def _settings(request: Request, row: DatasetRow, class_list_file: str) -> list[Any]:
    """Config keys and values of a data set's evaluation, alternating.

    The config may be that of another data set, so sizes and tasks are reset to those of this one,
    except where the user's keys set them.
    """
    own: dict[str, Any] = {
        "INPUT.MIN_SIZE_TEST": -1,
        "INPUT.MAX_SIZE_TEST": -1,
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
        # Semantic data sets are evaluated without it in any case.
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True,
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON": bool(row.instances_json),
    }
    settings = {key: value for key, value in own.items() if key not in request.overrides[::2]}
    settings["DATASETS.TEST"] = (row.name,)
    settings["DATASETS.TEST_VOCABULARY"] = (class_list_file,)
    settings["OUTPUT_DIR"] = str(request.output / row.family)
    return list(itertools.chain.from_iterable(settings.items()))


def _compare_with_stored(
    request: Request, item: SetPlan, cfg: CfgNode, shared: Mapping[str, str]
) -> SetPlan:
    """Add what results depend on, and what has changed since they were stored."""
    own = config_of_set(cfg, item.settings)
    records = DatasetCatalog.get(item.row.name)
    of_set = dependencies_of_set(own, item.class_list, item.row, records)
    dependencies = {**shared, **of_set}
    stored = {} if request.redo else read_finished(Path(own.OUTPUT_DIR))
    changed = changes(stored, dependencies) if stored else []
    return replace(item, dependencies=dependencies, stored=bool(stored), changed=changed)


def describe_plan(plan: Plan) -> list[str]:
    """Describe a plan for the terminal, one line for each data set to evaluate."""
    lines = [f"Model: {plan.model.title}; training class list: {plan.train_class_list.name}"]
    for item in plan.sets:
        state = "stored results" if item.finished else "to evaluate"
        if item.changed:
            state = f"to evaluate again, since these have changed: {', '.join(item.changed)}"
        images = describe_images(item.num_images, item.expected_images)
        lines.append(f"{item.title}: {images} images, class list {item.class_list.name}: {state}")
    if plan.not_evaluated:
        titles = ", ".join(n.title for n in plan.not_evaluated)
        lines.append(f"Not evaluated, for reasons given at the end: {titles}")
    return lines


def _device_name(cfg: CfgNode) -> str:
    """Name of the device that a run of this config uses."""
    effective = cfg.clone()
    choose_device(effective)
    if effective.MODEL.DEVICE.startswith("cuda"):
        return torch.cuda.get_device_name(effective.MODEL.DEVICE)
    return effective.MODEL.DEVICE
