"""The class lists that come with ITA: their orders, their names; and lists that others publish."""

import csv
import hashlib
import logging
import os
from collections import Counter
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from ita.classes import CLASS_LISTS, parse_class_list, read_class_list
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


@pytest.mark.parametrize("name", ORDERS)
def test_every_name_of_the_benchmark_comes_first(name):
    """In its order and spelling, less blanks: some sources have names split at blanks."""
    theirs, ours = facts(name), parse_class_list(name)
    assert theirs.keys() == ours.keys()
    for label_id, names in theirs.items():
        joined = "".join(map(letters, names.split(",")))
        assert "".join(map(letters, ours[label_id])).startswith(joined), label_id


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
    by_the_benchmark = {"ade847": 41, "ade150": 5}.get(file.stem, 0)
    assert len(shared) == by_the_benchmark, shared
    assert all(names == tuple(dict.fromkeys(names)) for names in classes)


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
        "class list ade847: 41 synonyms",
    ]


def test_published_list_with_repeated_first_names(tmp_path, caplog):
    lines = [f"{i}:{('pier' if i in (174, 255) else f'name {i}')},other {i}" for i in range(847)]
    with caplog.at_level(logging.INFO):
        class_list_for("openvocab_ade20k_full_sem_seg_val", published(tmp_path, lines))
    assert "1 first names are shared by several classes: pier" in caplog.text
