"""Preparation and reading of label maps, against plain numpy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ita.data.preparing import ade20k_full
from ita.data.preparing.labels import encode_labels, label_table, look_up
from ita.data.preparing.panoptic_files import describe_segments, encode_ids
from ita.data.reading import read_label_values, read_panoptic_ids, runs
from ita.errors import UserError

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)


def maps(dtype, values):
    return arrays.arrays(dtype, SHAPES, elements=values)


@given(
    maps(np.int32, st.integers(-2, 12)),
    st.dictionaries(st.integers(0, 10), st.integers(0, 5), min_size=1),
    st.sets(st.integers(0, 10)),
)
def test_a_table_maps_every_value_or_names_one_that_it_lacks(labels, classes, ignored):
    table = label_table(classes, ignored=ignored, ignore_label=255)
    expected = dict.fromkeys(ignored, 255) | classes
    unknown = set(labels.ravel().tolist()) - expected.keys()
    if not unknown:
        found = look_up(labels, table, Path("x.png"))
        assert found.tolist() == [[expected[value] for value in row] for row in labels.tolist()]
        return
    with pytest.raises(UserError, match=rf"x\.png: label ({'|'.join(map(str, unknown))}) is not"):
        look_up(labels, table, Path("x.png"))


@given(maps(np.uint8, st.integers(0, 255)))
def test_label_maps_of_8_bits(tmp_path, labels):
    path = tmp_path / "a.png"
    path.write_bytes(encode_labels(labels, ".png"))
    assert np.array_equal(read_label_values(str(path)), labels)


@given(maps(np.uint16, st.integers(0, 2**16 - 1)))
def test_label_maps_of_16_bits(tmp_path, labels):
    path = tmp_path / "a.tif"
    path.write_bytes(encode_labels(labels, ".tif"))
    assert np.array_equal(read_label_values(str(path)), labels)


@given(maps(np.uint16, st.integers(0, 2**16 - 1) | st.sampled_from([0, 1, 300])))
def test_segments_and_their_png(tmp_path, ids):
    path = tmp_path / "a.png"
    path.write_bytes(encode_ids(ids))
    assert np.array_equal(read_panoptic_ids(str(path)), ids)
    segments = describe_segments(ids)
    assert [segment["id"] for segment in segments] == sorted(set(ids.ravel().tolist()) - {0})
    for segment in segments:
        rows, columns = np.nonzero(ids == segment["id"])
        x, y, width, height = segment["bbox"]
        assert segment["area"] == len(rows)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


@given(arrays.arrays(np.int32, st.integers(1, 40), elements=st.integers(0, 3)))
def test_runs_repeat_to_the_values(values):
    found, lengths = runs(values)
    assert np.array_equal(np.repeat(found, lengths), values)
    assert (found[1:] != found[:-1]).all()


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_the_reduced_size_of_large_images(width, height):
    reduced = ade20k_full.reduced_size(width, height)
    assert min(reduced) == min(512, width, height)
    assert (reduced[0] >= reduced[1]) == (width >= height)
