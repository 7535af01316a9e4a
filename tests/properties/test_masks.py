"""Masks, segment maps, overlaps and placements, against plain numpy."""

import numpy as np
import pycocotools.mask as mask_util
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ita.data.placement import Placement, RandomPlacement
from ita.data.preparing.panoptic_files import encode_mask
from ita.evaluation.overlaps import Overlaps
from ita.modeling.targets import DenseMasks, SegmentMap
from ita.predictor.annotations import encode_rle

SIDES = st.integers(1, 14)
SHAPES = st.tuples(SIDES, SIDES)
MASKS = arrays.arrays(np.bool_, SHAPES)


@given(MASKS)
def test_run_length_encoding(mask):
    for encode in (encode_mask, encode_rle):
        rle = encode(mask)
        assert rle["size"] == list(mask.shape)
        decoded = mask_util.decode({**rle, "counts": rle["counts"].encode()})
        assert np.array_equal(decoded.astype(bool), mask)


@given(
    arrays.arrays(np.uint8, SHAPES, elements=st.integers(0, 5)),
    st.integers(1, 5),
    st.integers(0, 9),
    st.integers(0, 2**31),
)
def test_a_segment_map_is_sampled_like_its_masks(index, count, padding, seed):
    segments = SegmentMap(torch.from_numpy(index), count)
    masks = segments.dense()
    assert masks.shape == (count, *index.shape)
    assert np.array_equal(masks.numpy(), index == np.arange(count)[:, None, None])
    points = torch.rand(count, 20, 2, generator=torch.Generator().manual_seed(seed))
    frame = (index.shape[0] + padding, index.shape[1] + padding)
    rows = torch.arange(count)
    sampled = segments.sample(rows, points, frame)
    expected = DenseMasks(masks).sample(rows, points, frame)
    torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=0)


IDS = st.tuples(SIDES, SIDES).flatmap(
    lambda shape: st.tuples(
        *[arrays.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 256, 70_000]))] * 2
    )
)


@given(IDS)
def test_overlaps_of_segments(maps):
    true_ids, predicted_ids = maps
    true = [{"id": i} for i in (70_000, 1, 256)]
    predicted = [{"id": i} for i in (2, 256, 1)]
    found = Overlaps.of_maps(true_ids, true, predicted_ids, predicted)
    pairs = dict(zip(zip(found.true, found.predicted, strict=True), found.area, strict=True))
    for i, a in enumerate(true):
        for j, b in enumerate(predicted):
            area = np.sum((true_ids == a["id"]) & (predicted_ids == b["id"]))
            assert pairs.get((i, j), 0) == area
    assert found.true_area.tolist() == [np.sum(true_ids == s["id"]) for s in true]
    assert found.predicted_area.tolist() == [np.sum(predicted_ids == s["id"]) for s in predicted]
    void = true_ids == 0
    of_void = [np.sum(void & (predicted_ids == s["id"])) for s in predicted]
    assert found.void_area.tolist() == of_void
    assert found.unknown == ([70_000] if (predicted_ids == 70_000).any() else [])


@st.composite
def placements(draw):
    """A label map, and a placement of it."""
    labels = draw(arrays.arrays(np.uint8, SHAPES, elements=st.integers(0, 9)))
    size = draw(SHAPES)
    top, left = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
    height, width = draw(st.integers(1, size[0] - top)), draw(st.integers(1, size[1] - left))
    frame = (height + draw(st.integers(0, 4)), width + draw(st.integers(0, 4)))
    return labels, Placement(draw(st.booleans()), size, (top, left), (height, width), frame)


@given(placements())
def test_labels_are_placed_as_by_pil(case):
    labels, placement = case
    turned = labels[:, ::-1] if placement.flip else labels
    resized = Image.fromarray(turned).resize(placement.size[::-1], Image.Resampling.NEAREST)
    (top, left), (height, width) = placement.offset, placement.valid_size
    expected = np.full(placement.frame, 255, np.uint8)
    expected[:height, :width] = np.asarray(resized)[top : top + height, left : left + width]
    placed = placement.place_labels(labels, 255)
    assert np.array_equal(placed, expected)
    visible = placement.visible(labels)
    assert set(visible.ravel().tolist()) == set(expected[:height, :width].ravel().tolist())


@given(placements())
def test_an_image_of_one_color_keeps_it(case):
    labels, placement = case
    image = np.full((*labels.shape, 3), 77, np.uint8)
    placed = placement.place_image(image).numpy()
    height, width = placement.valid_size
    assert placed.shape == (3, *placement.frame)
    assert (placed[:, :height, :width] == 77).all()
    assert (placed[:, height:] == 128).all()
    assert (placed[:, :, width:] == 128).all()


@given(st.integers(1, 300), st.integers(1, 300), st.booleans(), st.integers(0, 2**31))
def test_every_drawn_placement_is_inside_its_image(height, width, pad, seed):
    np.random.seed(seed)  # noqa: NPY002  Detectron2's augmentations draw from it
    side = 32
    draw = RandomPlacement(side, min_scale=0.1, max_scale=2, flip_probability=0.5, pad=pad).draw
    placement = draw(height, width)
    for length, start, part, frame in zip(
        placement.size, placement.offset, placement.valid_size, placement.frame, strict=True
    ):
        assert 0 <= start <= length - part
        assert 1 <= part <= frame <= side
        assert frame == side or not pad
