"""The simulation of the input pipeline against what can be computed by hand."""

import input_pipeline as pipeline
import numpy as np
import pytest


def waiting(image, step, *, workers=1, prefetch=2, ranks=1, steps=400):
    images = np.full((steps, ranks, 2), image / 2)
    return pipeline.starvation(
        images, np.full((steps, ranks), step), workers=workers, prefetch=prefetch
    )


def test_a_loader_that_keeps_up_lets_nobody_wait():
    assert waiting(0.1, 0.2) == 0
    assert waiting(0.3, 0.2, workers=2) == 0


def test_a_slow_loader_sets_the_pace():
    # A batch of 0.3 s for a step of 0.1 s: two thirds of the time are waiting.
    assert waiting(0.3, 0.1) == pytest.approx(2 / 3, abs=0.01)
    assert waiting(0.3, 0.1, workers=2) == pytest.approx(1 / 3, abs=0.02)


def test_all_wait_for_the_slowest():
    images = np.full((400, 2, 2), 0.01)
    images[:, 1] = 0.15
    got = pipeline.starvation(images, np.full((400, 2), 0.1), workers=1, prefetch=2)
    assert got == pytest.approx(2 / 3, abs=0.01)


def test_prefetched_batches_bridge_a_slow_one():
    images = np.full((400, 1, 1), 0.05)
    images[200] = 0.25
    steps = np.full((400, 1), 0.1)
    few, many = (
        pipeline.starvation(images, steps, workers=1, prefetch=prefetch) for prefetch in (1, 4)
    )
    assert many == 0 < few


def test_times_have_the_mean_and_deviation_asked_for():
    times = pipeline.lognormal(np.random.default_rng(0), 0.2, 0.6, (100_000,))
    assert times.mean() == pytest.approx(0.2, rel=0.02)
    assert times.std() == pytest.approx(0.12, rel=0.03)
