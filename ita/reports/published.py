"""Published results, read from a declarative table (``published.yaml``)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ita.errors import UserError, did_you_mean
from ita.files import PACKAGE, find_file
from ita.structured_files import read_yaml

TABLE = PACKAGE / "reports" / "published.yaml"
# Metric -> task and name of the metric in the results of an evaluation. The first one decides.
PUBLISHED_METRICS = {
    "mIoU": ("sem_seg", "mIoU"),
    "PQ": ("panoptic_seg", "PQ"),
    "AP": ("segm", "AP"),
}


@dataclass(frozen=True)
class PublishedResult:
    """Published results on one data set.

    Attributes:
        metrics: name in ``PUBLISHED_METRICS`` -> percent; empty if nothing is published.
        class_list: name of the class list file that the results were published with.
        images: number of images of the results; 0 stands for the complete data set.
    """

    metrics: Mapping[str, float]
    class_list: str
    images: int = 0


@dataclass(frozen=True)
class PublishedSet:
    """A data set in the literature.

    Attributes:
        title: name in the literature.
        class_list: name of the published class list file.
        made_from: published file that becomes this list without some classes; "" if it is
            published itself.
        dropped_ids: label ids of these classes.
    """

    title: str
    class_list: str
    made_from: str = ""
    dropped_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Features:
    """Features by which the checkpoints of a model are recognized.

    Attributes:
        embedding: width of CLIP's embedding.
        last_stage: channels of the last stage of CLIP's image tower.
        dominant: whether the model has dominant categories.
    """

    embedding: int
    last_stage: int
    dominant: bool

    def __str__(self) -> str:
        dominant = "with" if self.dominant else "without"
        return (
            f"CLIP embedding of width {self.embedding}, last stage of {self.last_stage} channels, "
            f"{dominant} dominant categories"
        )


@dataclass(frozen=True)
class PublishedModel:
    """A model and its published results.

    Attributes:
        name: name in the table.
        title: name for readers.
        config: config file.
        source: where the results were published; "" if unknown.
        features: features of its checkpoints; None if it is never recognized.
        training_class_list: name of its training class list; "" accepts any.
        results: family of the catalogue -> results.
    """

    name: str
    title: str
    config: str
    source: str = ""
    features: Features | None = None
    training_class_list: str = ""
    results: Mapping[str, PublishedResult] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Data sets and models with published results."""

    path: Path
    data_sets: Mapping[str, PublishedSet]
    models: Mapping[str, PublishedModel]

    def published(self, model: PublishedModel, family: str) -> PublishedResult:
        """Results of a model on a data set, without metrics if there are none."""
        nothing = PublishedResult({}, self.data_sets[family].class_list)
        return model.results.get(family, nothing)


def read_table(path: str | Path = TABLE) -> Table:
    """Read a table of published results.

    A table other than the packaged one describes models only; data sets are the packaged ones.

    Raises:
        UserError: an unreadable or invalid file (names the file, the entry and the error).
    """
    path = find_file(path)
    data_sets = {
        family: PublishedSet(**{**keys, "dropped_ids": tuple(keys.get("dropped_ids", ()))})
        for family, keys in _read(TABLE)["data_sets"].items()
    }
    models = _read(path).get("models")
    if not isinstance(models, Mapping) or not models:
        raise UserError(f"{path} has no models; write 'models:' and 'NAME:' lines below it")
    return Table(
        path, data_sets, {str(n): _model(path, str(n), models[n], data_sets) for n in models}
    )


def _read(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path)
    return content if isinstance(content, Mapping) else {}


def _model(
    path: Path, name: str, keys: Any, data_sets: Mapping[str, PublishedSet]
) -> PublishedModel:
    where = f"{path}: model {name}"
    _check_keys(
        where,
        keys,
        ("title", "source", "config", "features", "training_class_list", "results"),
    )
    if not keys.get("config"):
        raise UserError(f"{where} has no config; write 'config: FILE'")
    features = keys.get("features")
    if features is not None:
        _check_keys(f"{where}, features", features, Features.__annotations__)
        if missing := [key for key in Features.__annotations__ if key not in features]:
            raise UserError(f"{where}, features has no {missing[0]}")
    results = keys.get("results") or {}
    _check_keys(f"{where}, results", results, data_sets)
    return PublishedModel(
        name=name,
        title=str(keys.get("title", name)),
        source=str(keys.get("source", "")),
        config=str(keys["config"]),
        features=Features(**features) if features else None,
        training_class_list=str(keys.get("training_class_list", "")),
        results={
            family: _result(f"{where}, {family}", values, data_sets[family])
            for family, values in results.items()
        },
    )


def _result(where: str, keys: Any, data_set: PublishedSet) -> PublishedResult:
    _check_keys(where, keys, (*PUBLISHED_METRICS, "class_list", "images"))
    metrics = {metric: keys[metric] for metric in PUBLISHED_METRICS if metric in keys}
    images = keys.get("images", 0)
    for key, value in {**metrics, "images": images}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise UserError(f"{where}: {key} is {value!r}; it must be a number, at least 0")
    if outside := [metric for metric, value in metrics.items() if not value <= 100]:
        raise UserError(f"{where}: {outside[0]} must be in percent, at most 100")
    return PublishedResult(
        {metric: float(value) for metric, value in metrics.items()},
        str(keys.get("class_list", data_set.class_list)),
        math.floor(images),
    )


def _check_keys(where: str, keys: Any, known: Iterable[str]) -> None:
    known = list(known)
    if not isinstance(keys, Mapping):
        raise UserError(f"{where} must have 'KEY: value' lines with {', '.join(known)}")
    for key in keys:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"expected one of {', '.join(known)}"
            raise UserError(f"{where} has an unknown key {key}; {hint}")
