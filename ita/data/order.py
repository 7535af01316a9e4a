"""Order and random numbers of training images: functions of the seed and the position in a run."""

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler


class Place(NamedTuple):
    """An image in the order of a run.

    Attributes:
        position: number of images of the run before it, over all processes.
        image: number of the image in the data set.
    """

    position: int
    image: int


class ImageOrder(Sampler[Place]):
    """Endless order of training images, shuffled anew in every epoch, for one of many processes.

    The order is that of Detectron2's ``TrainingSampler``. Processes take turns, so that it does not
    depend on their number.
    """

    def __init__(
        self, num_images: int, *, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """Set up the order.

        Args:
            num_images: size of the data set.
            seed: seed of the order.
            start: position of the first image, a multiple of ``world_size``.
            rank: which of the processes this is.
            world_size: number of processes.
        """
        self._num_images, self._seed = num_images, seed
        self._start, self._rank, self._world_size = start, rank, world_size

    def __iter__(self) -> Iterator[Place]:
        places = self._from_epoch(self._start // self._num_images)
        first = self._start % self._num_images + self._rank
        return itertools.islice(places, first, None, self._world_size)

    def _from_epoch(self, first: int) -> Iterator[Place]:
        generator = torch.Generator().manual_seed(self._seed)
        for epoch in itertools.count():
            order = torch.randperm(self._num_images, generator=generator)
            if epoch < first:
                continue  # its random numbers precede those of the next epoch
            start = epoch * self._num_images
            for offset, index in enumerate(order.tolist()):
                yield Place(start + offset, index)


def draw_seed(*numbers: int) -> int:
    """Draw a seed of 32 bits that depends on all of some numbers, which are not negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed the global random number generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  Detectron2's augmentations use it
    torch.manual_seed(seed)
