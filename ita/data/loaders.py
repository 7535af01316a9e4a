"""Detectron2's loaders, with errors that reach the user as they are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

from ita.data.records import Record
from ita.data.registration import check_registered
from ita.errors import UserError

Mapper = Callable[[Mapping[str, Any]], dict[str, Any] | None]
Batch = list[dict[str, Any]]
# What must agree for sets that are trained on together, since one mapper reads them all.
_SHARED_METADATA = (
    "class_list",
    "label_ids",
    "ignored_label_values",
    "label_bits",
    "ignore_label",
)


def build_train_loader(
    dataset_names: Sequence[str],
    mapper: Mapper,
    *,
    total_batch_size: int,
    num_workers: int,
    seed: int | None = None,
) -> "RecordLoader":
    """An endless stream of this process's batches, shuffled anew in every epoch.

    Args:
        dataset_names: registered sets with one class list; their images are joined.
        mapper: may return None for an image to take another one in its place.
        total_batch_size: images per step of the whole job.
        num_workers: loading processes per training process; 0 loads in this one.
        seed: of the shuffling; None draws one that all processes share.

    Raises:
        UserError: no data set, one that cannot be loaded, sets of different class lists, or a batch
            size that the processes cannot share evenly; while iterating, whatever the mapper
            raises, and that no image is usable.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise UserError(
            f"the batch size {total_batch_size} (SOLVER.IMS_PER_BATCH) cannot be shared evenly by "
            f"{world_size} processes; give a multiple of {world_size}"
        )
    records = _load_records(dataset_names)
    loader = build_detection_train_loader(
        records,
        mapper=_CarryErrors(mapper, len(records)),
        sampler=TrainingSampler(len(records), seed=seed),
        total_batch_size=total_batch_size,
        aspect_ratio_grouping=False,  # the mapper makes all images the same square
        num_workers=num_workers,
    )
    return RecordLoader(loader, len(records))


def build_test_loader(dataset_name: str, mapper: Mapper, *, num_workers: int) -> "RecordLoader":
    """This process's share of a data set in order, one image per batch, each image once.

    Raises:
        UserError: a data set that cannot be loaded; while iterating, whatever the mapper raises.
    """
    records = _load_records([dataset_name])
    loader = build_detection_test_loader(
        records, mapper=_CarryErrors(mapper, len(records)), num_workers=num_workers
    )
    return RecordLoader(loader, len(records))


@dataclass(frozen=True)
class _Failure:
    """The message of a UserError on its way out of a loading process."""

    message: str


class _CarryErrors:
    """A mapper that returns UserErrors, for torch would wrap a raised one in a traceback's text."""

    def __init__(self, mapper: Mapper, num_images: int) -> None:
        self._mapper = mapper
        self._num_images = num_images
        self._skipped_in_a_row = 0

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any] | _Failure | None:
        try:
            mapped = self._mapper(record)
        except UserError as error:
            return _Failure(str(error))
        self._skipped_in_a_row = 0 if mapped is not None else self._skipped_in_a_row + 1
        # Detectron2 tries each image once before it runs out of them.
        if self._skipped_in_a_row >= self._num_images:
            return _Failure(f"none of the {self._num_images} training images has a usable label")
        return mapped


class RecordLoader(Iterable[Batch]):
    """Batches of a Detectron2 loader; a UserError of its mapper is raised here, unchanged.

    Attributes:
        num_images: images of the whole data set, over all processes.
    """

    def __init__(self, loader: Any, num_images: int) -> None:
        self._loader = loader
        self.num_images = num_images

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            for mapped in batch:
                if isinstance(mapped, _Failure):
                    raise UserError(mapped.message)
            yield batch

    def __len__(self) -> int:
        """Batches of this process; a training loader has no end and no length."""
        return len(self._loader)


def _load_records(names: Sequence[str]) -> list[Record]:
    if not names:
        raise UserError("no data set is given; name one in DATASETS.TRAIN or DATASETS.TEST")
    records: list[Record] = []
    for name in names:
        check_registered(name)
        loaded = DatasetCatalog.get(name)
        if not loaded:
            raise UserError(f"data set {name} is empty")
        records += loaded
    _check_joinable(names)
    return records


def _check_joinable(names: Sequence[str]) -> None:
    first = MetadataCatalog.get(names[0])
    for name in names[1:]:
        other = MetadataCatalog.get(name)
        for key in _SHARED_METADATA:
            if first.get(key) != other.get(key):
                raise UserError(
                    f"data sets {names[0]} and {name} differ in {key.replace('_', ' ')}; sets that "
                    "are trained on together must have the same classes and label values"
                )
