"""The class lists that come with ITA: their orders, their names; and lists that others publish."""

import csv
import hashlib
import logging
import os
from collections import Counter
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from ita.classes import CLASS_LISTS, merges, parse_class_list, read_class_list
from ita.data.catalogue import CATALOGUE
from ita.data.registration import class_list_for
from ita.toy.dataset import CLASS_LISTS as TOY_CLASS_LISTS

# Our list -> the file of facts about the benchmark, its columns, how many classes there are, and
# a checksum of ids and first names in it.
ORDERS = {
    "ade150": ("a150.csv", "label_id", "names", 150, "72c0f981b1b7c2c1"),
    "ade847": ("a847.csv", "train_id", "names", 847, "1523df1a90a5b4ad"),
    "pc59": ("pc59.csv", "label_id", "name", 59, "de39c6e415a93ee1"),
    "pc459": ("pc459.csv", "label_id", "name", 459, "a7ee1f31ca47ef72"),
    "mapillary65": ("mapillary65.csv", "label_id", "name", 65, "f309648db727067c"),
}
# Spelling mistakes of the data sets that our lists mend.
MENDED = {"casetterecorder": "cassetterecorder"}


def letters(name: str) -> str:
    name = name.replace(" ", "").lower()
    return MENDED.get(name, name)


def checksum(names: dict[int, str]) -> str:
    lines = [f"{label_id}:{letters(name)}" for label_id, name in sorted(names.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def facts(name: str) -> dict[int, str]:
    """Label id -> names as the benchmark has them."""
    folder = os.environ.get("ITA_FACTS")
    if not folder:
        pytest.skip("ITA_FACTS names no folder with the benchmarks' lists")
    file, id_column, name_column, *_ = ORDERS[name]
    with Path(folder, file).open(newline="", encoding="utf-8") as lines:
        return {int(row[id_column]): row[name_column] for row in csv.DictReader(lines)}


@pytest.mark.parametrize("name", ORDERS)
def test_order_is_the_fields(name):
    """A list in another order gives a wrong mIoU without an error."""
    *_, count, expected = ORDERS[name]
    ours = {label_id: names[0] for label_id, names in parse_class_list(name).items()}
    assert len(ours) == count
    assert checksum(ours) == expected


def names_left(theirs: str, ours: tuple[str, ...], others: set[str]) -> str:
    """The benchmark's names, run together, less ours in their order and first names of others."""
    for name in (*map(letters, ours), "end"):
        while theirs and not theirs.startswith(name):
            begin = max(
                (other for other in others if theirs.startswith(other)), key=len, default=""
            )
            if not begin:
                return theirs
            theirs = theirs.removeprefix(begin)
        theirs = theirs.removeprefix(name)
    return theirs


@pytest.mark.parametrize("name", ORDERS)
def test_every_name_of_the_benchmark_comes_first(name):
    """In its order and spelling, less blanks: some sources have names split at blanks.

    Further names that are the first name of another class are left out.
    """
    theirs, ours = facts(name), parse_class_list(name)
    assert theirs.keys() == ours.keys()
    first = [letters(names[0]) for names in ours.values()]
    for label_id, names in theirs.items():
        joined = "".join(map(letters, names.split(",")))
        others = set(first) - {letters(ours[label_id][0])}
        assert joined.startswith(letters(ours[label_id][0])), label_id
        assert names_left(joined, ours[label_id], others) == "", label_id


def test_some_ids_of_a847():
    names = read_class_list("ade847").names
    assert [names[i] for i in (0, 1, 2, 3, 14, 18, 169)] == [
        "wall", "building", "sky", "tree", "car", "chair", "central reservation",
    ]  # fmt: skip
    assert names[-1] == "adding machine"
    assert names.count("pier") == 2


def test_pascal_context_59_is_part_of_459():
    """Two classes have other names there: street is road, diningtable is table."""
    of_459 = set(read_class_list("pc459").synonyms)
    assert set(read_class_list("pc59").names) <= of_459


def test_voc_21_is_voc_20_with_a_background():
    voc20, voc21 = parse_class_list("pas20"), parse_class_list("pas21")
    background = voc21.pop(0)
    assert voc20 == voc21
    assert list(voc20) == list(range(1, 21))
    assert [names[0].replace(" ", "") for names in voc20.values()] == [
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
        "train", "tvmonitor",
    ]  # fmt: skip
    assert background[0] == "background"
    objects = {name for names in voc20.values() for name in names}
    assert objects.isdisjoint(background)


AMBIGUOUS = {
    "ade847": {"fan": "electric fan", "crane": "construction crane", "mouse": "computer mouse"},
    "pc459": {"mouse": "computer mouse", "crane": "construction crane", "pot": "cooking pot"},
    "pc59": {"mouse": "computer mouse", "keyboard": "computer keyboard"},
    "ade150": {"fan": "electric fan", "pot": "flowerpot"},
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_names_have_another(name):
    classes = {names[0]: names for names in read_class_list(name).classes}
    for first, other in AMBIGUOUS[name].items():
        assert other in classes[first]


ALL_LISTS = sorted([*CLASS_LISTS.glob("*.txt"), *TOY_CLASS_LISTS.glob("*.txt")])


@pytest.mark.parametrize("file", ALL_LISTS, ids=lambda path: path.stem)
def test_our_synonyms_serve_one_class_each(file):
    """Only names of the benchmark itself may be shared: those regions' logits tie."""
    classes = read_class_list(file).classes
    shared = [n for n, c in Counter(n for names in classes for n in set(names)).items() if c > 1]
    by_the_benchmark = {"ade847": 13, "ade150": 1}.get(file.stem, 0)
    assert len(shared) == by_the_benchmark, shared
    assert all(names == tuple(dict.fromkeys(names)) for names in classes)


@pytest.mark.parametrize("file", ALL_LISTS, ids=lambda path: path.stem)
def test_no_class_owns_the_name_of_another(file):
    """A class named "toilet, stool" would win every region of the later class "stool"."""
    classes = read_class_list(file).classes
    first = {names[0] for names in classes}
    assert [names for names in classes if first.intersection(names[1:])] == []


def test_classes_of_59_do_not_own_names_of_the_other_400():
    """Regions of those are void in PC-59."""
    of_59 = {name: names[0] for names in read_class_list("pc59").classes for name in names}
    of_459 = {name: names for names in read_class_list("pc459").classes for name in names}
    foreign = [n for n, owner in of_59.items() if n in of_459 and owner not in of_459[n]]
    assert foreign == []


TRAINING = "coco133"
TEST_LISTS = sorted({row.class_list for row in CATALOGUE})


@pytest.mark.parametrize("name", TEST_LISTS)
def test_the_training_list_names_one_concept_per_class(name):
    """Every list of the catalogue: a class with names of two test classes cannot separate them."""
    training, test = read_class_list(TRAINING), read_class_list(name)
    found = [
        (training.names[merge.training], [test.names[index] for index in merge.covered])
        for merge in merges(training, test)
    ]
    assert found == []


# Classes of other concepts than those of COCO that similar names would mark as seen.
UNSEEN = {
    "ade150": "armchair bag box countertop cushion desk hill lake lamp monitor railing seat "
    "skyscraper ship stairway stove tower wardrobe",
    "ade847": "canoe countertop cups cushion desk hill lake mat monitor mug newspaper playground "
    "pond racquet railing ship skyscraper stream tower tables wardrobe",
    "pc459": "bag cart closet controller cushion mat parasol playground rail stone wardrobe",
    "pc59": "bag bedclothes cloth plate sign",
}
SEEN = {"ade150": 60, "ade847": 97, "pc59": 52, "pc459": 91, "pas20": 20, "pas21": 21,
        "cityscapes19": 16, "mapillary65": 28, "coco133": 133}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_seen_classes(name):
    """Those of COCO's concepts; a list with another count needs a look at each of its classes."""
    test = read_class_list(name)
    seen = dict(zip(test.names, test.seen(read_class_list(TRAINING)), strict=True))
    assert [n for n in UNSEEN.get(name, "").split() if seen[n]] == []
    assert sum(test.seen(read_class_list(TRAINING))) == SEEN[name]


def test_training_names_are_plurals_of_their_class_not_of_another():
    training = read_class_list(TRAINING)
    owner = {name: names for names in training.classes for name in names}
    for names in training.classes:
        for name in names:
            assert owner.get(f"{name}s", names) is names
            assert owner.get(name.removesuffix("s"), names) is names


def published(tmp_path, lines) -> str:
    path = tmp_path / "published_with_prompt_eng.txt"
    path.write_text("\n".join(lines))
    return str(path)


def test_published_coco_list(tmp_path):
    """201 lines from id 0, 68 of them no class."""
    ours = parse_class_list("coco133")
    lines = [f"{i}:" + ",".join(ours.get(i, ["invalid_class_id"])) for i in range(201)]
    assert sum("invalid_class_id" in line for line in lines) == 68
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    class_list = class_list_for(name, published(tmp_path, lines))
    assert class_list.classes == MetadataCatalog.get(name).class_list.classes
    assert class_list.name.endswith("published_with_prompt_eng.txt")


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("openvocab_ade20k_panoptic_val", 150, 1),
        ("openvocab_ade20k_full_sem_seg_val", 847, 1),
        ("openvocab_pascal_ctx59_sem_seg_val", 59, 1),
        ("openvocab_pascal_ctx459_sem_seg_val", 459, 1),
        ("openvocab_mapillary_vistas_panoptic_val", 65, 1),
        ("openvocab_pascal21_sem_seg_val", 21, 0),
        ("openvocab_cityscapes_fine_panoptic_val", 19, 0),
    ],
)
def test_published_lists_of_the_other_sets(tmp_path, name, count, first):
    """They begin with a line that is no class, or at 0 with a real one; ids may not be ours."""
    lines = ["0:invalid_class_id"] * first
    lines += [f"{i + first}:name {i},the same for all,names {i // 2}" for i in range(count)]
    class_list = class_list_for(name, published(tmp_path, lines))
    assert class_list.names == tuple(f"name {i}" for i in range(count))


def test_repeated_names_are_noted_for_the_lists_in_use(caplog):
    with caplog.at_level(logging.INFO):
        class_list_for("openvocab_ade20k_full_sem_seg_val")
        class_list_for("openvocab_pascal20_sem_seg_val")
    assert [message.split(" are shared")[0] for message in caplog.messages] == [
        "class list ade847: 9 first names",
        "class list ade847: 13 synonyms",
    ]


def test_published_list_with_repeated_first_names(tmp_path, caplog):
    lines = [f"{i}:{('pier' if i in (174, 255) else f'name {i}')},other {i}" for i in range(847)]
    with caplog.at_level(logging.INFO):
        class_list_for("openvocab_ade20k_full_sem_seg_val", published(tmp_path, lines))
    assert "1 first names are shared by several classes: pier" in caplog.text
