"""The runtime's sizes and its messages for folders that are no exported models."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from ita.classes import ClassList
from ita.data.mapper import InferenceMapper
from ita.errors import UserError
from ita.runtime import load_onnx
from ita.runtime.export_files import (
    DESCRIPTION,
    Description,
    TextInputs,
    read_description,
    read_vocabulary,
    write_description,
    write_vocabulary,
)
from ita.runtime.onnx_model import resized_size

DESCRIBED = Description(
    divisor=32,
    min_size=64,
    max_size=128,
    resize_logits=False,
    dominant=True,
    prompts=("a {}",),
    candidate_prompts=("{}",),
    other="other",
    training_names=("grass", "blå stjerne"),
    context_length=0,
)


@pytest.mark.parametrize(("min_size", "max_size"), [(800, 1333), (64, 100), (0, 500)])
def test_images_have_the_size_of_the_mapper(min_size, max_size):
    mapper = InferenceMapper(min_size=min_size, max_size=max_size)
    rng = np.random.default_rng(0)
    for height, width in [(1, 900), (7, 7), *rng.integers(1, 700, (20, 2)).tolist()]:
        image = np.zeros((height, width, 3), np.uint8)
        expected = tuple(mapper.map_image(image)["image"].shape[1:])
        assert resized_size((height, width), min_size, max_size) == expected


def test_nothing_heavy_is_imported():
    script = "import sys, ita.runtime; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"torch", "detectron2", "open_clip", "scipy"}.isdisjoint(done.stdout.split())


def test_descriptions_are_kept(tmp_path):
    write_description(DESCRIBED, tmp_path)
    assert read_description(tmp_path) == DESCRIBED


def test_vocabularies_are_kept(tmp_path):
    classes = ClassList.from_strings("mine", ["blå stjerne, star", "grass"], things=[0])
    arrays = {"text": np.ones((3, 4), np.float32), "seen": np.array([True, False])}
    write_vocabulary(TextInputs(classes, arrays), tmp_path / "v.npz")
    again = read_vocabulary(tmp_path / "v.npz")
    assert again.class_list == classes
    assert again.arrays.keys() == arrays.keys()
    assert all((again.arrays[name] == arrays[name]).all() for name in arrays)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a model exported by ita export"),
        ("{", "is damaged"),
        ("[]", "is not of format 1"),
        (json.dumps({"format": 2}), "is not of format 1"),
        (json.dumps(dataclasses.asdict(DESCRIBED)), "model.onnx does not exist"),
    ],
)
def test_folders_that_are_no_models(tmp_path, content, message):
    pytest.importorskip("onnxruntime")
    if content is not None:
        (tmp_path / DESCRIPTION).write_text(content)
    with pytest.raises(UserError, match=message):
        load_onnx(tmp_path)


def test_a_damaged_graph(tmp_path):
    pytest.importorskip("onnxruntime")
    write_description(DESCRIBED, tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"cannot load .*model\.onnx"):
        load_onnx(tmp_path)


def test_a_damaged_vocabulary(tmp_path):
    (tmp_path / "vocabulary.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"vocabulary\.npz"):
        read_vocabulary(tmp_path / "vocabulary.npz")


def test_onnx_runtime_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    write_description(DESCRIBED, tmp_path)
    with pytest.raises(UserError, match="needs onnxruntime, which is not installed"):
        load_onnx(tmp_path)
