"""Masks as one integer map and as separate tensors, sampled at points."""

import pytest
import torch
import torch.nn.functional as F

from ita.modeling.targets import DenseMasks, SegmentMap, sample_at


def make_map(height, width, count, dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, count + 2, (height, width), generator=generator)
    void = torch.iinfo(torch.uint8 if dtype == torch.uint8 else torch.int16).max
    return SegmentMap(torch.where(index < count, index, void).to(dtype), count)


def make_points(sets, count=500, seed=1):
    """Points everywhere, also on the borders and outside."""
    points = torch.rand(sets, count, 2, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.1
    points[:, :5] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.0], [1.0, 0.5]])
    return points


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
@pytest.mark.parametrize("size", [(7, 9), (1, 1), (1, 20), (33, 5)])
def test_a_map_is_sampled_like_its_padded_masks(size, dtype):
    height, width = size
    segments = make_map(*size, count=4, dtype=dtype)
    frame = (height + 3, width + 10)
    padded = F.pad(segments.dense().float(), (0, 10, 0, 3))
    rows = torch.tensor([3, 0, 0, 2, 1])
    points = make_points(len(rows))
    expected = sample_at(padded[rows], points)
    torch.testing.assert_close(segments.sample(rows, points, frame), expected, atol=1e-5, rtol=0)
    dense = DenseMasks(segments.dense()).sample(rows, points, frame)
    torch.testing.assert_close(dense, expected, atol=1e-5, rtol=0)


def test_a_map_whose_bytes_are_all_masks():
    index = torch.arange(256, dtype=torch.uint8).view(16, 16)
    segments = SegmentMap(index, 256)
    rows, points = torch.tensor([0, 255, 17]), make_points(3)
    expected = sample_at(segments.dense().float()[rows], points)
    torch.testing.assert_close(segments.sample(rows, points, (16, 16)), expected)


def test_points_shared_by_all_masks():
    segments, rows, points = make_map(20, 30, count=6), torch.arange(6), make_points(1)
    shared = segments.sample(rows, points, (20, 30))
    own = segments.sample(rows, points.expand(6, -1, -1), (20, 30))
    assert shared.shape == (6, 500)
    assert torch.equal(shared, own)


@pytest.mark.parametrize("make", [lambda s: s, lambda s: DenseMasks(s.dense())])
def test_no_masks_and_no_rows(make):
    masks = make(make_map(8, 8, count=0))
    assert len(masks) == 0
    assert masks.sample(torch.arange(0), make_points(1), (8, 8)).shape == (0, 500)
    masks = make(make_map(8, 8, count=3))
    assert masks.sample(torch.arange(0), torch.zeros(0, 12, 2), (8, 8)).shape == (0, 12)


def test_masks_of_a_map_are_disjoint():
    segments = make_map(13, 11, count=5)
    masks = segments.dense()
    assert masks.shape == (5, 13, 11)
    for number, mask in enumerate(masks):
        assert torch.equal(mask, segments.index == number)
