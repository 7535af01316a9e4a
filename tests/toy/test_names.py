"""The words of the toy world, and the class lists that are made of them."""

import pytest

from ita.classes import parse_class_list, read_class_list
from ita.toy.captions import SUBJECTS
from ita.toy.dataset import CLASS_LISTS
from ita.toy.names import (
    DISTRACTOR_STUFF,
    DISTRACTOR_THINGS,
    SEEN_THINGS,
    STUFF,
    TEST_UNSEEN,
    THINGS,
    VAL_UNSEEN,
    synonym,
)


def words(names) -> set[str]:
    return {word for name in names for word in name.split()}


def numbered(first: int, names) -> dict[int, tuple[str, ...]]:
    return {first + position: (name,) for position, name in enumerate(names)}


CLASSES = numbered(1, THINGS) | numbered(101, STUFF)
LISTS = {
    "toy": CLASSES,
    "toy_seen": {i: names for i, names in CLASSES.items() if names[0] in SEEN_THINGS + STUFF},
    "toy_synonyms": {i: (synonym(names[0]),) for i, names in CLASSES.items()},
    "toy_distractors": CLASSES | numbered(201, DISTRACTOR_THINGS + DISTRACTOR_STUFF),
}


@pytest.mark.parametrize("name", LISTS)
def test_class_lists_agree_with_the_names(name):
    assert parse_class_list(CLASS_LISTS / f"{name}.txt") == LISTS[name]


def test_classes_are_seen_or_kept_for_validation_or_for_tests():
    assert len(set(THINGS)) == len(THINGS) == 80
    parts = (SEEN_THINGS, VAL_UNSEEN, TEST_UNSEEN)
    assert sorted(name for part in parts for name in part) == sorted(THINGS)
    assert [len(part) for part in parts] == [48, 16, 16]


@pytest.mark.parametrize(
    "part", [SEEN_THINGS, VAL_UNSEEN, TEST_UNSEEN], ids=["seen", "val", "test"]
)
def test_every_word_occurs_in_every_part(part):
    assert words(part) == words(THINGS)


def test_synonyms_are_one_for_each_class_in_words_that_training_does_not_use():
    synonyms = read_class_list(CLASS_LISTS / "toy_synonyms.txt").names
    assert len(set(synonyms)) == len(synonyms) == len(THINGS + STUFF)
    assert words(synonyms).isdisjoint(words(SEEN_THINGS + STUFF))


def test_no_distractor_is_a_class_or_another_name_for_one():
    distractors = DISTRACTOR_THINGS + DISTRACTOR_STUFF
    assert len(set(distractors)) == len(distractors)
    real = THINGS + STUFF
    assert set(distractors).isdisjoint({*real, *map(synonym, real)})
    assert set(distractors) < set(SUBJECTS)
