"""Data loaders of training and evaluation, with user errors passed on unchanged."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ita.data.order import ImageOrder, Place, draw_seed, seed_all
from ita.data.records import Record
from ita.data.registration import check_registered
from ita.errors import UserError
from ita.signals import end_workers_at_exit, ignore_signals

Mapper = Callable[[Mapping[str, Any]], dict[str, Any] | None]
Batch = list[dict[str, Any]]
# Metadata that must agree among data sets trained on together, since one mapper reads them all.
_SHARED_METADATA = (
    "class_list",
    "label_ids",
    "ignored_label_values",
    "label_bits",
    "ignore_label",
    "label_orientation",
)


def build_train_loader(
    dataset_names: Sequence[str],
    mapper: Mapper,
    *,
    total_batch_size: int,
    num_workers: int,
    seed: int | None = None,
    start: int = 0,
    pin_memory: bool = False,
    max_bad_images: int = 0,
) -> "RecordLoader":
    """Build an endless loader of this process's batches, reshuffled every epoch.

    What the loader yields is a function of ``seed`` and the position in the run. The mapper gets
    its random numbers from the global generators of Python, NumPy and PyTorch, which are seeded for
    each image.

    Args:
        dataset_names: registered data sets with the same class list; their images are joined.
        mapper: may return None to skip an image; another one takes its place.
        total_batch_size: images per step over all processes.
        num_workers: data loader workers per training process; 0 loads in the process itself.
        seed: seed of order and augmentation; None draws one that all processes share.
        start: number of images, over all processes, that the run has seen before.
        pin_memory: copy batches to pinned memory, from which copies to a GPU do not block.
        max_bad_images: number of images with a UserError that others replace, as those for which
            the mapper returns None; see :attr:`RecordLoader.bad_images`. More raise the error.

    Raises:
        UserError: no data set, one that cannot be loaded, data sets with different class lists, or
            a batch size not divisible by the number of processes; while iterating, any UserError of
            the mapper, or no usable image.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise UserError(
            f"the batch size {total_batch_size} (SOLVER.IMS_PER_BATCH) cannot be divided evenly "
            f"among {world_size} processes; use a multiple of {world_size}"
        )
    records = _load_records(dataset_names)
    seed = comm.shared_random_seed() if seed is None else seed
    order = ImageOrder(
        len(records), seed=seed, start=start, rank=comm.get_rank(), world_size=world_size
    )
    stored = DatasetFromList(records, copy=False)
    loader: DataLoader[Any] = DataLoader(
        _PlacedImages(stored, mapper, seed, max_bad_images),
        batch_size=total_batch_size // world_size,
        sampler=order,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=ignore_signals,
        pin_memory=pin_memory,
    )
    return RecordLoader(loader, stored)


def build_test_loader(dataset_name: str, mapper: Mapper, *, num_workers: int) -> "RecordLoader":
    """Build a loader of this process's share of a data set: in order, once, one image per batch.

    Raises:
        UserError: a data set that cannot be loaded; while iterating, any UserError of the mapper.
    """
    records = _load_records([dataset_name])
    stored = DatasetFromList(records, copy=False)
    images = MapDataset(stored, _ReturnErrors(mapper))
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_size=1,
        sampler=InferenceSampler(len(records)),
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=ignore_signals,
    )
    return RecordLoader(loader, stored)


@dataclass(frozen=True)
class _Failure:
    """Message of a UserError, returned from a data loader worker, after that of bad images."""

    message: str
    bad_images: dict[str, str] = field(default_factory=dict)


class _Loaded(NamedTuple):
    """A mapped image and the bad images that it replaces, as file -> reason.

    A named tuple, since PyTorch pins the memory of what is in one.
    """

    mapped: dict[str, Any]
    bad_images: dict[str, str]


class _ReturnErrors:
    """Mapper that returns UserErrors, since torch would embed a raised one in a traceback."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any] | _Failure | None:
        try:
            return self._mapper(record)
        except UserError as error:
            return _Failure(str(error))


class _PlacedImages(Dataset[Any]):
    """Training images by their place in a run: the same place gives the same result."""

    def __init__(
        self, records: Sequence[Record], mapper: Mapper, seed: int, max_bad_images: int
    ) -> None:
        self._records = records
        self._mapper, self._seed = _ReturnErrors(mapper), seed
        self._max_bad_images = max_bad_images

    def __getitem__(self, place: Place) -> _Loaded | _Failure:
        bad: dict[str, str] = {}
        for attempt, index in enumerate(self._candidates(place)):
            seed_all(draw_seed(self._seed, place.position, attempt))
            record = self._records[index]
            mapped = self._mapper(record)
            if isinstance(mapped, _Failure):
                if not self._max_bad_images:
                    return mapped
                bad[record["file_name"]] = mapped.message
                if len(bad) > self._max_bad_images:
                    return _Failure(mapped.message, bad)
            elif mapped is not None:
                return _Loaded(mapped, bad)
        return _Failure(
            f"none of the {len(self._records)} training images "
            + (f"can be used, {len(bad)} are bad" if bad else "has a usable label"),
            bad,
        )

    def _candidates(self, place: Place) -> Iterator[int]:
        """Yield the image of a place, and those that replace it, one after another, in need."""
        yield place.image
        generator = np.random.default_rng((self._seed, place.position))
        for index in generator.permutation(len(self._records)).tolist():
            if index != place.image:
                yield index


def _as_it_is(batch: Batch) -> Batch:
    return batch


class RecordLoader(Iterable[Batch]):
    """Batches of a PyTorch loader; a UserError of its mapper is raised here, unchanged.

    Attributes:
        records: records of the whole data set, serialized once in memory that workers share.
        num_images: number of images in it.
        bad_images: bad images that others have replaced so far in this process: file -> reason.
    """

    def __init__(self, loader: Any, records: Sequence[Record]) -> None:
        self._loader = loader
        self.records = records
        self.num_images = len(records)
        end_workers_at_exit()
        self.bad_images: dict[str, str] = {}

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while (batch := self._next_of(batches)) is not None:
            yield [self._unpacked(loaded) for loaded in batch]

    def _next_of(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (ConnectionError, EOFError) as error:
            # A worker that is killed while it hands over a batch: PyTorch passes the error of the
            # connection on if the system has not reported the worker's end yet. One of the mapper
            # arrives with the worker named in it.
            if self._loader.num_workers and "in DataLoader worker process" not in str(error):
                raise RuntimeError("a DataLoader worker exited unexpectedly") from error
            raise

    def _unpacked(self, loaded: dict[str, Any] | _Loaded | _Failure) -> dict[str, Any]:
        if isinstance(loaded, dict):
            return loaded
        self.bad_images |= loaded.bad_images
        if isinstance(loaded, _Failure):
            raise UserError(loaded.message)
        return loaded.mapped

    def __len__(self) -> int:
        """Number of batches of this process; a training loader is endless and has no length."""
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
                    f"data sets {names[0]} and {name} differ in {key.replace('_', ' ')}; data sets "
                    "trained on together must have the same classes and label values"
                )
