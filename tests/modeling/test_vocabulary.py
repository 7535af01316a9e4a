"""Class names to classifier to class logits (design section 2)."""

import logging
import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ita.classes import ClassList
from ita.errors import UserError
from ita.modeling import clip as clip_module
from ita.modeling import text_prefixes, vocabulary
from ita.modeling.ops.plain import plain_operators
from ita.modeling.vocabulary import (
    BARE,
    PROMPTS,
    Classifier,
    TextEncoder,
    class_logits,
    encode_candidates,
)

THE_PROMPTS = {
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
}


def test_the_prompts_to_the_letter():
    assert len(PROMPTS) == 14
    assert set(PROMPTS) == THE_PROMPTS


def test_synonyms_are_separated_by_commas():
    classes = ClassList.from_strings("some", ["cat", "dog, puppy,hound", "traffic light"])
    assert classes.classes == (("cat",), ("dog", "puppy", "hound"), ("traffic light",))
    assert classes.names == ("cat", "dog", "traffic light")
    assert classes.synonyms == ("cat", "dog", "puppy", "hound", "traffic light")
    assert len(classes) == 3


@pytest.mark.parametrize("classes", [[], ["cat", ""], ["cat, "], [",cat"], ["cat", " "]])
def test_classes_without_a_name(classes):
    with pytest.raises(UserError, match="the list"):
        ClassList.from_strings("the list", classes)


def test_seen_classes_share_a_synonym_to_the_letter():
    training = ClassList.from_strings("train", ["cat,kitten", "dog", "Sky", "traffic light"])
    test = ClassList.from_strings(
        "test", ["dog,puppy", "puppy,wolf", "kitten", "sky", "light", "dogs", "lamp, traffic light"]
    )
    assert test.seen(training) == [True, False, True, False, False, False, True]


class CountingCLIP:
    """A CLIP that notes the texts that it encodes."""

    def __init__(self, clip):
        self.clip, self.texts = clip, []
        self.device, self.embed_dim = clip.device, clip.embed_dim

    def encode_text(self, texts, _):
        self.texts += texts
        return self.clip.encode_text(texts)


def test_features_are_normalized_means_of_normalized_prompts(convnext_clip):
    names = ["cat", "fire hydrant", "a {brace} and %s", "cat"]
    ours = TextEncoder(convnext_clip).encode(names)
    for name, feature in zip(names, ours, strict=True):
        per_prompt = [
            convnext_clip.encode_text([prompt.replace("{}", name)])[0].double()
            for prompt in sorted(THE_PROMPTS)
        ]
        mean = sum(f / f.norm() for f in per_prompt) / 14
        torch.testing.assert_close(feature.double(), mean / mean.norm(), atol=1e-6, rtol=0)
    bare = TextEncoder(convnext_clip).encode(["sky", "sea"], BARE)
    expected = F.normalize(convnext_clip.encode_text(["sky", "sea"]), dim=-1)
    torch.testing.assert_close(bare, expected, atol=1e-6, rtol=0)


def test_every_text_is_encoded_once(convnext_clip):
    clip = CountingCLIP(convnext_clip)
    features = TextEncoder(clip)
    first = features.encode(["cat", "dog", "cat"])
    again = features.encode(["sky", "dog", "cat"])
    features.encode(["cat", "dog"], BARE)
    features.encode(["dog", "cat"], BARE)
    prompted = {prompt.format(name) for prompt in PROMPTS for name in ("cat", "dog", "sky")}
    assert sorted(clip.texts) == sorted([*prompted, "cat", "dog"])
    assert torch.equal(first[0], first[2])
    assert torch.equal(again[1:], first[[1, 0]])


@pytest.mark.parametrize("plain", [False, True])
def test_progress_counts_every_text_that_is_encoded(plain, convnext_clip, monkeypatch):
    """Also equal ones, such as those of the same name in capitals, and in packs of few texts."""
    monkeypatch.setattr(text_prefixes, "MAX_ROWS", 20)
    monkeypatch.setattr(clip_module, "TEXT_BATCH", 20)
    started, counts = [], []

    @contextmanager
    def progress(*work):
        started.append(work)
        yield counts.append

    text = TextEncoder(convnext_clip, progress=progress)
    with plain_operators() if plain else nullcontext():
        text.encode(["cat", "CAT", "fire hydrant", "cat"])
        text.encode(["fire hydrant", "cat"])
    assert started == [("encoding 3 names × 14 prompts", 42, "texts")]
    assert sum(counts) == 42
    assert len(counts) > 2


def test_a_process_encodes_for_itself_unless_asked(convnext_clip, monkeypatch):
    """Labelling images with one process per GPU must not wait for other processes."""
    monkeypatch.setattr(vocabulary.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(vocabulary.comm, "get_world_size", lambda: 2)
    alone = TextEncoder(convnext_clip).encode(["cat", "dog"])
    monkeypatch.undo()
    assert torch.equal(alone, TextEncoder(convnext_clip).encode(["cat", "dog"]))


def test_only_the_main_process_encodes(convnext_clip, monkeypatch):
    """What another process would send is what the others use."""
    clip, sent = CountingCLIP(convnext_clip), torch.randn(2, convnext_clip.embed_dim)
    monkeypatch.setattr(vocabulary.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(vocabulary.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: tensor.copy_(sent))
    assert torch.equal(TextEncoder(clip, collective=True).encode(["cat", "dog"]), sent)
    assert not clip.texts


def make_classifier(synonyms_per_class, width, dtype=torch.float64):
    index = [i for i, count in enumerate(synonyms_per_class) for _ in range(count)]
    weight = F.normalize(torch.randn(len(index) + 1, width, dtype=dtype), dim=-1)
    return Classifier(weight, torch.tensor(index), len(synonyms_per_class))


@pytest.mark.parametrize("synonyms", [[1, 3, 2, 1, 1], [1, 1, 1], [1], [3], [2, 1]])
@pytest.mark.parametrize("scale", [0.5, 14.0, 100.0, 101.0, 5000.0])
def test_class_logits_are_maxima_of_scaled_cosines(synonyms, scale):
    torch.manual_seed(len(synonyms))
    classifier = make_classifier(synonyms, 6)
    embedding = 3 * torch.randn(2, 5, 6, dtype=torch.float64)
    logits = class_logits(embedding, classifier, torch.tensor(math.log(scale)).double())
    assert logits.shape == (2, 5, len(synonyms) + 1)
    for place in [(0, 0), (1, 4)]:
        x = embedding[place] / embedding[place].norm()
        cosines = [min(scale, 100) * float(x @ row) for row in classifier.weight]
        for c in range(len(synonyms)):
            own = [
                z for z, k in zip(cosines, classifier.class_index.tolist(), strict=False) if k == c
            ]
            assert logits[place][c].item() == pytest.approx(max(own), abs=1e-5)
        assert logits[place][-1].item() == pytest.approx(cosines[-1], abs=1e-5)


@pytest.mark.parametrize("synonyms", [[1, 3, 2], [1, 1]])
def test_gradients_of_class_logits(synonyms):
    torch.manual_seed(0)
    classifier = make_classifier(synonyms, 4)
    embedding = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    void = classifier.weight[-1:].clone().requires_grad_()

    def logits(embedding, scale, void):
        weight = torch.cat([classifier.weight[:-1], F.normalize(void, dim=-1)])
        return class_logits(embedding, replace(classifier, weight=weight), scale)

    assert torch.autograd.gradcheck(logits, (embedding, scale, void))


def test_thousands_of_classes():
    torch.manual_seed(0)
    classifier = make_classifier([2] * 3000, 8, torch.float32)
    embedding = torch.randn(1, 20, 8)
    logits = class_logits(embedding, classifier, torch.tensor(1.0))
    every = math.e * F.normalize(embedding, dim=-1) @ classifier.weight.T
    torch.testing.assert_close(logits[..., :-1], every[..., :-1].unflatten(-1, (3000, 2)).amax(-1))
    torch.testing.assert_close(logits[..., -1], every[..., -1])


def test_a_zero_embedding_has_finite_logits_and_gradients():
    classifier = make_classifier([1, 2], 4, torch.float32)
    embedding = torch.zeros(1, 4, requires_grad=True)
    logits = class_logits(embedding, classifier, torch.tensor(2.0))
    assert torch.equal(logits, torch.zeros(1, 3))
    logits.sum().backward()
    assert embedding.grad.isfinite().all()


NAMES = ClassList.from_strings("some list", ["cat, kitten", "dog", "cat, sky"])


@pytest.fixture
def note(convnext_clip, caplog):
    """Encodes the candidates with a table of these names; the records logged."""

    def run(names, class_list=NAMES):
        caplog.clear()
        caplog.set_level(logging.INFO)
        table = {name: torch.zeros(convnext_clip.embed_dim) for name in names}
        text = TextEncoder(convnext_clip)
        encode_candidates(class_list, text, prompts=BARE, name_table=table)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return run


def test_names_that_a_name_table_lacks_are_logged(note):
    """Once per vocabulary; a name of two classes counts once."""
    ((level, message),) = note(["cat", "other", "zebra"])
    assert level == "WARNING"
    assert "MODEL.ITA.NAME_TABLE" in message
    assert "lacks 3 of the 5 candidate names of class list some list" in message
    assert message.endswith(": kitten, dog, sky")
    assert "\n" not in message


def test_a_name_table_that_lacks_nothing_is_no_warning(note):
    ((level, message),) = note([*NAMES.synonyms, "other"])
    assert level == "INFO"
    assert "all 5 candidate names of some list" in message
    assert note([]) == []


def test_a_message_lists_all_of_many_names(note):
    many = ClassList.from_strings("many", [f"name {i}" for i in range(100)])
    ((_, message),) = note(["other", "name 3"], many)
    assert "lacks 99 of the 101 candidate names" in message
    listed = message.rpartition(": ")[2].split(", ")
    assert listed == [f"name {i}" for i in range(100) if i != 3]
