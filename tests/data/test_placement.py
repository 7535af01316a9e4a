"""Placements, with Detectron2's augmentations one after the other as the oracle."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng

from ita.data.placement import PAD_VALUE, Placement, RandomPlacement
from tests.data.mini import random_image

SIDE = 64
FILES = [(31, 47), (47, 31), (64, 64), (7, 50), (50, 5), (1, 1), (150, 200)]


def by_detectron2(image, labels, scales, flip_probability, pad):
    inputs = T.AugInput(image, sem_seg=labels)
    T.AugmentationList(
        [
            T.RandomFlip(prob=flip_probability),
            T.ResizeScale(*scales, SIDE, SIDE),
            T.FixedSizeCrop((SIDE, SIDE), pad=pad, pad_value=PAD_VALUE, seg_pad_value=255),
        ]
    )(inputs)
    return inputs.image, inputs.sem_seg


@pytest.mark.parametrize("shape", FILES)
@pytest.mark.parametrize("scales", [(0.2, 2.0), (1.0, 1.0), (2.0, 2.0)])
@pytest.mark.parametrize(("flip_probability", "pad"), [(0.5, True), (0.0, False), (1.0, True)])
def test_a_seed_gives_what_detectron2_gives(shape, scales, flip_probability, pad):
    random = np.random.default_rng(0)
    # Smooth and noisy parts.
    image = random_image(*shape)
    image[: shape[0] // 2] = np.linspace(0, 255, shape[1], dtype=np.uint8)[:, None]
    labels = random.integers(0, 250, shape, dtype=np.uint8)
    placements = RandomPlacement(
        SIDE,
        min_scale=scales[0],
        max_scale=scales[1],
        flip_probability=flip_probability,
        pad=pad,
    )
    # Detectron2 fails where a side has 0 pixels, so that the thin files do not shrink as far.
    for seed in range(6):
        seed_all_rng(seed)
        placement = placements.draw(*shape)
        seed_all_rng(seed)
        expected_image, expected_labels = by_detectron2(
            image, labels, scales, flip_probability, pad
        )
        placed = placement.place_image(image)
        np.testing.assert_array_equal(placement.place_labels(labels, 255), expected_labels)
        assert placed.shape == (3, *expected_labels.shape)
        difference = placed.permute(1, 2, 0).numpy().astype(int) - expected_image
        assert abs(difference).max() <= 2
        assert abs(difference.mean()) < 0.05


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(20, 30), (40, 60)])
def test_labels_of_more_bits_move_as_those_of_eight(flip, size):
    labels = np.random.default_rng(0).integers(0, 250, (20, 30), dtype=np.int32)
    placement = Placement(flip, size, offset=(3, 5), valid_size=(17, 25), frame=(32, 32))
    wide = placement.place_labels(labels << 20, 250 << 20)
    narrow = placement.place_labels(labels.astype(np.uint8), 250)
    np.testing.assert_array_equal(wide >> 20, narrow)


@pytest.mark.parametrize("size", [(10, 15), (20, 30), (44, 66)])
def test_visible_labels_are_those_of_the_result(size):
    """Shrinking leaves out pixels of the file, and the crop does."""
    labels = np.arange(600).reshape(20, 30)
    placement = Placement(True, size, offset=(2, 4), valid_size=(8, 9), frame=(16, 16))
    placed = placement.place_labels(labels, padding=-1)
    visible = placement.visible(labels)
    assert len(np.unique(visible)) == visible.size
    assert set(visible.ravel()) == set(placed.ravel()) - {-1}


def test_the_image_of_the_file_is_left_as_it_is():
    image = random_image(20, 30)
    before = image.copy()
    placement = Placement(True, (20, 30), offset=(0, 0), valid_size=(20, 30), frame=(20, 30))
    placed = placement.place_image(image)
    placed.fill_(0)
    np.testing.assert_array_equal(image, before)


def test_unchanged_size_keeps_every_value():
    image = random_image(20, 30)
    placement = Placement(False, (20, 30), offset=(0, 0), valid_size=(20, 30), frame=(24, 32))
    placed = placement.place_image(image)
    assert torch.equal(placed[:, :20, :30], torch.from_numpy(image).permute(2, 0, 1))
    assert (placed[:, 20:] == PAD_VALUE).all()
    assert (placed[:, :, 30:] == PAD_VALUE).all()
