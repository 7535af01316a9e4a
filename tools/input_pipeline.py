"""Simulate how long GPUs wait for images.

python tools/input_pipeline.py --rate 7.5 --workers 4 --batch 2 --step 0.6 --ranks 64
python tools/input_pipeline.py --config-file configs/coco/semantic-segmentation/base.yaml --step 0.6
python tools/input_pipeline.py --rate 20 --workers 2 --batch 2 --step 0.1 --check

A worker loads whole batches, one after another, at most --prefetch ahead. All processes wait for
the slowest one in every step, since they add up their gradients.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rate", type=float, default=0, help="images per second of a worker with its own core")
    add(
        "--config-file", default="", help="measure the rate on the config's training images instead"
    )
    add("--spread", type=float, default=0.6, help="deviation of an image's time, relative to it")
    add("--workers", type=int, default=4, help="data loader workers of a process")
    add("--prefetch", type=int, default=2, help="batches that a worker loads ahead")
    add("--batch", type=int, default=2, help="images of a process in a step")
    add("--step", type=float, required=True, help="seconds of a step that does not wait")
    add("--step-spread", type=float, default=0.05, help="deviation of a step, relative to it")
    add("--ranks", type=int, default=1, help="processes of the job")
    add("--steps", type=int, default=2000, help="simulated steps")
    add(
        "--check",
        action="store_true",
        help="run a real loader of sleeping workers, for one process",
    )


def lognormal(
    draw: np.random.Generator, mean: float, spread: float, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Positive times of a mean and a relative deviation."""
    variance = math.log1p(spread**2)
    return draw.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), shape)


def starvation(
    image_seconds: NDArray[np.float64], step_seconds: NDArray[np.float64], *, workers: int,
    prefetch: int,
) -> float:  # fmt: skip
    """Fraction of the time in which a job waits for images.

    Args:
        image_seconds: [steps, ranks, batch], loading time of each image.
        step_seconds: [steps, ranks], time of each step.
        workers: of each rank; batch i is loaded by worker i mod ``workers``.
        prefetch: batch i is requested once batch i - ``workers`` * ``prefetch`` is taken.
    """
    loading = image_seconds.sum(2)
    steps, ranks = loading.shape
    loaded, taken = np.zeros((steps, ranks)), np.zeros(steps)
    end = waited = 0.0
    for i in range(steps):
        start = np.zeros(ranks) if i < workers else loaded[i - workers]
        if i >= workers * prefetch:
            start = np.maximum(start, taken[i - workers * prefetch])
        loaded[i] = start + loading[i]
        taken[i] = max(end, loaded[i].max())
        # The first batches always wait; what counts is the rest.
        waited += taken[i] - end if i >= workers * prefetch else 0.0
        end = taken[i] + step_seconds[i].max()
    return waited / (end - taken[min(steps - 1, workers * prefetch)])


def real_starvation(
    image_seconds: NDArray[np.float64], step_seconds: NDArray[np.float64], *, workers: int,
    prefetch: int,
) -> float:  # fmt: skip
    """The same of PyTorch's loader, whose workers sleep as long as an image takes."""
    from torch.utils.data import DataLoader

    class Sleeper:
        def __len__(self) -> int:
            return image_seconds.shape[0] * image_seconds.shape[2]

        def __getitem__(self, index: int) -> int:
            time.sleep(image_seconds[:, 0].ravel()[index])
            return index

    loader = DataLoader(
        Sleeper(),  # type: ignore[arg-type]
        batch_size=image_seconds.shape[2],
        num_workers=workers,
        prefetch_factor=prefetch,
        collate_fn=list,
    )
    batches: Iterator[list[int]] = iter(loader)
    waited = begin = 0.0
    for i in range(len(step_seconds)):
        start = time.perf_counter()
        next(batches)
        if i == workers * prefetch:
            begin = time.perf_counter()
        waited += time.perf_counter() - start if i >= workers * prefetch else 0.0
        time.sleep(step_seconds[i, 0])
    return waited / (time.perf_counter() - begin)


def measure(config_file: str, count: int = 60) -> tuple[float, float]:
    """Images per second of CPU time of a config's mapper, and the relative deviation of a time."""
    import torch
    from detectron2.data import DatasetCatalog

    from ita.config import load_config
    from ita.data.order import seed_all
    from ita.data.registration import register_all
    from ita.engine.training_parts import build_training_mapper

    torch.set_num_threads(1)
    cfg = load_config(config_file)
    register_all(cfg.DATASETS.CUSTOM)
    mapper = build_training_mapper(cfg)
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    times = []
    for index in range(count):
        seed_all(index)
        start = time.process_time()
        mapper(records[index % len(records)])
        times.append(time.process_time() - start)
    return 1 / float(np.mean(times[2:])), float(np.std(times[2:]) / np.mean(times[2:]))


def main() -> int:
    """Simulate with the settings of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args()
    if bool(args.rate) == bool(args.config_file):
        parser.error("give one of --rate and --config-file")
    rate, spread = args.rate, args.spread
    if args.config_file:
        rate, spread = measure(args.config_file)
        print(f"a worker loads {rate:.1f} images/s of CPU time, deviation {spread:.2f}")
    draw = np.random.default_rng(0)
    shape = (args.steps, args.ranks)
    images = lognormal(draw, 1 / rate, spread, (*shape, args.batch))
    steps = lognormal(draw, args.step, args.step_spread, shape)
    needed = args.batch / args.step / rate
    print(f"a process needs {needed:.1f} workers on average, has {args.workers}")
    loader = {"workers": args.workers, "prefetch": args.prefetch}
    print(f"simulated: GPUs wait {starvation(images, steps, **loader):.1%} of the time")
    if args.check:
        images, steps = images[:, :1], steps[:, :1]
        print(f"one process: simulated {starvation(images, steps, **loader):.1%}", end=", ")
        print(f"PyTorch's loader {real_starvation(images, steps, **loader):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
