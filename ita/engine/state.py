"""What an exact continuation of a run needs besides weights and optimizer: seed and position."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from ita.data.order import draw_seed, seed_all

logger = logging.getLogger(__name__)

# Distinguishes the random numbers of steps from those of images, which have the same seed.
STEPS = 1


@dataclass
class RunState:
    """Seed and position of a run; order, augmentation and losses follow from them.

    Attributes:
        seed: seed of the run.
        position: number of images that the run has seen, over all processes.
        num_images: size of the training data; 0 until they are loaded.
        world_size: number of processes; 0 until then.
        seed_drawn: whether nobody has chosen the seed, so that another one needs no warning.
    """

    seed: int
    position: int = 0
    num_images: int = 0
    world_size: int = 0
    seed_drawn: bool = False

    def state_dict(self) -> dict[str, int]:
        """Return the values for a checkpoint."""
        return {name: value for name, value in asdict(self).items() if name != "seed_drawn"}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the values of a checkpoint."""
        if state["seed"] != self.seed and not self.seed_drawn:
            logger.warning("SEED is %d, as in the checkpoint, not %d", state["seed"], self.seed)
        for name in self.state_dict():
            setattr(self, name, state[name])

    def begin(self, num_images: int, world_size: int) -> None:
        """Begin or continue with these data and processes; log what is not as before."""
        if self.num_images and self.num_images != num_images:
            logger.warning(
                "the training data have %d images, in the checkpoint's run %d: their order changes",
                num_images,
                self.num_images,
            )
        if self.world_size and self.world_size != world_size:
            logger.warning(
                "%d processes continue a run of %d: the order of images is the same, the points of "
                "the losses are not",
                world_size,
                self.world_size,
            )
        self.num_images, self.world_size = num_images, world_size


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed the random numbers of a step, so that they do not depend on the steps before."""
    seed_all(draw_seed(seed, iteration, rank, STEPS))


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Use only operators that give equal bits in every run, inside the block.

    PyTorch warns of operators of which it has no such version.
    """
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        if enabled:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)
        torch.backends.cudnn.benchmark = benchmark
