"""The exported text tower and tokenizer: text features of PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ita
from ita.classes import read_class_list
from ita.export.exporting import describe_model, text_inputs
from ita.export.text import TextGraph, exportable_tokenizer
from ita.runtime.clip_tokenizer import ClipTokenizer
from ita.runtime.text_features import NameEncoder

pytest.importorskip("tokenizers")

TEXTS = [
    "",
    "It's a  CAFÉ at 10:30, isn’t it?",
    "fish &amp; chips \t (2 pieces) _x_",
    "北京 🙂 naïve",
    " ".join(["very"] * 100),
]
LISTS = ("ade847", "coco133", "mapillary65", "pc459")


@pytest.fixture(scope="module")
def toy():
    return ita.load(precision="float32", device="cpu")


@pytest.fixture(scope="module")
def tokenizer(toy):
    return exportable_tokenizer(toy.model.backbone, [])


def test_tokens_are_those_of_open_clip(toy, tokenizer):
    context = len(toy.model.backbone.clip.positional_embedding)
    texts = [*TEXTS, *(name for name in LISTS for name in read_class_list(name).synonyms)]
    expected = toy.model.backbone.tokenizer(texts).numpy()
    for row, ids in zip(expected, ClipTokenizer(tokenizer, context)(texts), strict=True):
        assert row[: len(ids)].tolist() == ids
        assert not row[len(ids) :].any()


def test_a_tokenizer_of_another_kind_is_not_exported(toy, monkeypatch):
    backbone = toy.model.backbone
    original = backbone.tokenizer
    monkeypatch.setattr(
        backbone, "tokenizer", lambda texts: original([t.upper() for t in texts]) + 1
    )
    assert exportable_tokenizer(backbone, []) is None


@pytest.mark.parametrize(
    "classes", [["grass"], ["red circle, crimson disc", "grass, lawn", "unknown thing"]]
)
def test_vocabularies_are_those_of_the_model(toy, tokenizer, classes):
    model = toy.model
    vocabulary = toy.segmenter(classes).vocabulary
    description = describe_model(toy, has_text=True)

    def tower(tokens):
        return TextGraph(model.backbone.clip)(torch.from_numpy(tokens)).numpy()

    encoder = NameEncoder(description, ClipTokenizer(tokenizer, description.context_length), tower)
    result = encoder.encode(vocabulary.class_list)
    expected = {name: tensor.numpy() for name, tensor in text_inputs(vocabulary).items()}
    assert result.arrays.keys() == expected.keys()
    for name, array in result.arrays.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array, expected[name], atol=1e-5)
    without = replace(description, dominant=False)
    few = NameEncoder(without, ClipTokenizer(tokenizer, 77), tower).encode(vocabulary.class_list)
    assert few.arrays.keys() == {"text", "class_index", "seen"}
