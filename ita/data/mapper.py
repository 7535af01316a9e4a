"""Mappers from records to model inputs: one for training, one for inference."""

import multiprocessing
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import Tensor

from ita.data.orientation import ORIENTATION, Orientation
from ita.data.placement import RandomPlacement, at_least_one_pixel
from ita.data.reading import (
    check_sizes,
    orientation_of_record,
    read_classes,
    read_oriented_image,
    read_panoptic_ids,
    read_segments,
)
from ita.data.registration import check_registered
from ita.errors import UserError
from ita.modeling.targets import SegmentMap

FLIPS = ("horizontal", "none")


class TrainingMapper:
    """Reads and augments an image with its targets, for panoptic and semantic records.

    In order: random flip, large-scale jitter, crop or pad to a square (design section 6). Crowd
    segments are not targets. Segments outside the crop stay as empty targets; for semantic label
    maps, the targets are the classes in the crop.

    Attributes:
        num_skipped: number of images without a usable pixel, over all data loader workers.
    """

    def __init__(
        self,
        metadata: Metadata,
        *,
        image_size: int,
        min_scale: float,
        max_scale: float,
        flip: str,
        pad: bool,
    ) -> None:
        """Set up the augmentation.

        Args:
            metadata: metadata of the records' data set.
            image_size: S, height and width of the result, in pixels.
            min_scale: minimum size of the image before the crop, relative to ``image_size``.
            max_scale: maximum size, likewise. With both scales 1 and no flip, nothing is random.
            flip: "horizontal" (with probability 0.5) or "none".
            pad: pad smaller images to S x S; otherwise they stay smaller, as at inference.
        """
        if flip not in FLIPS:
            raise UserError(f"flip is {flip!r}; it must be {' or '.join(map(repr, FLIPS))}")
        if image_size < 1 or not 0 < min_scale <= max_scale:
            raise UserError(
                f"image size {image_size} and scales {min_scale} to {max_scale}: sizes must be "
                "positive, and the minimum scale must not exceed the maximum"
            )
        self.metadata = metadata
        self.image_size = image_size
        self.num_skipped = SharedCounter()
        self._placements = RandomPlacement(
            image_size,
            min_scale=min_scale,
            max_scale=max_scale,
            flip_probability=0.5 if flip == "horizontal" else 0.0,
            pad=pad,
        )

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Map a record of the data set.

        Returns:
            None if the whole image is void or crowd, else a dict of

            - ``image``: uint8 [3, S, S] RGB, the image at the top left, padded with 128; smaller
              without padding.
            - ``valid_size``: (height, width) of the image without its padding.
            - ``instances``: ``gt_classes`` int64 [M], ``gt_masks`` a :class:`SegmentMap` [S, S] of
              M masks; the padding is in none.
            - ``height``, ``width``: of the file; ``file_name``, ``image_id``.

        Raises:
            UserError: an unreadable file, an image whose size differs from its record or its
                labels, or a label outside the class list.
        """
        image, orientation = read_oriented_image(record["file_name"])
        height, width = image.shape[:2]
        orientation = orientation_of_record({ORIENTATION: orientation}, self.metadata)
        labels, classes = self._targets(record, orientation)
        check_sizes(record, orientation, labels.shape)
        if (labels == len(classes)).all():
            self.num_skipped.increment()
            return None
        placement = self._placements.draw(height, width)
        if "pan_seg_file_name" not in record:
            present = np.flatnonzero(np.bincount(placement.visible(labels).ravel())[: len(classes)])
            labels, classes = _relabel(len(classes), present)[labels], present.tolist()
        labels = placement.place_labels(labels, padding=len(classes))
        instances = PinnableInstances(labels.shape)
        instances.gt_classes = torch.as_tensor(np.asarray(classes, np.int64))
        instances.gt_masks = SegmentMap(torch.from_numpy(labels), len(classes))
        return {
            "image": placement.place_image(image),
            "valid_size": placement.valid_size,
            "instances": instances,
            "height": height,
            "width": width,
            "file_name": record["file_name"],
            "image_id": record["image_id"],
        }

    def _targets(
        self, record: Mapping[str, Any], orientation: Orientation
    ) -> tuple[np.ndarray, Sequence[int]]:
        """Load a label map of the targets, in which the last value is void.

        Returns:
            uint8 [H, W] if it suffices, else int32; and the classes of the values 0, 1, ...
        """
        if "pan_seg_file_name" in record:
            segments = record["segments_info"]
            kept = [i for i, segment in enumerate(segments) if not segment["iscrowd"]]
            read_ids = partial(read_panoptic_ids, orientation=orientation)
            labels = read_segments(record, _relabel(len(segments), kept), read_ids)
            return labels, [segments[i]["category_id"] for i in kept]
        classes = range(len(self.metadata.class_list))
        values = _relabel(len(classes), classes)
        path = record["sem_seg_file_name"]
        return read_classes(path, self.metadata, values, orientation), classes


class SharedCounter:
    """Counter that data loader workers share with the process that starts them."""

    def __init__(self) -> None:
        self._count = multiprocessing.Value("q", 0)

    @property
    def value(self) -> int:
        """Current count."""
        return self._count.value

    def increment(self) -> None:
        """Add one."""
        with self._count.get_lock():
            self._count.value += 1


class InferenceMapper:
    """Reads and resizes a test image; the annotations of the record stay unchanged.

    Attributes:
        min_size, max_size: as given.
    """

    def __init__(self, *, min_size: int, max_size: int) -> None:
        """Set up the resizing (design section 7).

        Args:
            min_size: short side after resizing, in pixels; 0 disables resizing.
            max_size: maximum long side, in pixels; takes precedence over ``min_size``.
        """
        self.min_size, self.max_size = min_size, max_size
        self._resize = T.ResizeShortestEdge(min_size, max_size)

    @classmethod
    def for_dataset(cls, name: str, *, min_size: int, max_size: int) -> "InferenceMapper":
        """Build the mapper of a registered data set; negative sizes select the data set's own.

        Raises:
            UserError: an unknown data set.
        """
        check_registered(name)
        test_size = MetadataCatalog.get(name).test_size
        return cls.for_test_size(test_size, min_size=min_size, max_size=max_size)

    @classmethod
    def for_test_size(
        cls, test_size: tuple[int, int], *, min_size: int, max_size: int
    ) -> "InferenceMapper":
        """Build a mapper; negative sizes select those of ``test_size``."""
        own_min, own_max = test_size
        return cls(
            min_size=own_min if min_size < 0 else min_size,
            max_size=own_max if max_size < 0 else max_size,
        )

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map a record of the data set, or a bare ``{"file_name": path}``.

        Returns:
            The record with ``image``, resized, uint8 [3, h, w] RGB, ``height`` and ``width`` of the
            upright file, the output size of the model, and its ``orientation``.

        Raises:
            UserError: an unreadable image, or one whose size differs from its record.
        """
        image, orientation = read_oriented_image(record["file_name"])
        check_sizes(record, orientation)
        return {**record, ORIENTATION: orientation, **self.map_image(image)}

    def map_image(self, image: np.ndarray) -> dict[str, Any]:
        """Map an image in memory, uint8 [H, W, 3] RGB, like a file with the same content."""
        transform = at_least_one_pixel(self._resize.get_transform(image))
        resized = transform.apply_image(image)
        height, width = image.shape[:2]
        return {"image": _to_tensor(resized), "height": height, "width": width}


class PinnableInstances(Instances):
    """Instances that a data loader copies to pinned memory together with the image."""

    def pin_memory(self) -> "PinnableInstances":
        """Copy all fields to pinned memory."""
        pinned = PinnableInstances(self.image_size)
        for name, field in self.get_fields().items():
            pinned.set(name, field.pin_memory())
        return pinned


def _relabel(count: int, kept: Sequence[int] | np.ndarray) -> np.ndarray:
    """Number the kept ones of ``count`` labels 0, 1, ...; all others, and the last, are void.

    Returns:
        [count + 1] of uint8 if it suffices, else int32: the number of each label, and void, which
        is the number of kept labels.
    """
    numbers = np.full(count + 1, len(kept))
    numbers[np.asarray(kept, np.int64)] = np.arange(len(kept))
    # PyTorch has few operations on 16-bit unsigned integers.
    return numbers.astype(np.uint8 if len(kept) <= np.iinfo(np.uint8).max else np.int32)


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
