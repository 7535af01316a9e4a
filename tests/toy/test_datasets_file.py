"""The YAML file that describes the toy world's data sets: what it says agrees with the names."""

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from ita.data.custom import read_custom
from ita.data.rows import find_row
from ita.files import PACKAGE
from ita.toy.dataset import SPLITS
from ita.toy.names import DISTRACTOR_THINGS, SEEN_THINGS, THINGS, synonym

FILE = PACKAGE / "toy" / "datasets.yaml"
# Data set -> class list, split whose scenes it has, things.
EXPECTED = {
    "toy_train": ("toy_seen", "train", SEEN_THINGS),
    "toy_val": ("toy", "val", THINGS),
    "toy_test_seen": ("toy", "test_seen", THINGS),
    "toy_test_unseen": ("toy", "test_unseen", THINGS),
    "toy_test_all": ("toy", "test_all", THINGS),
    "toy_test_synonyms": ("toy_synonyms", "test_all", tuple(map(synonym, THINGS))),
    "toy_test_distractors": ("toy_distractors", "test_all", THINGS + DISTRACTOR_THINGS),
}


@pytest.fixture(scope="module")
def content() -> dict:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def test_every_split_and_both_other_vocabularies_are_described_in_order(content):
    assert list(content) == list(EXPECTED)
    assert [scenes for _, scenes, _ in EXPECTED.values()][: len(SPLITS)] == list(SPLITS)


@pytest.mark.parametrize("name", EXPECTED)
def test_keys_agree_with_the_names_and_with_what_is_written(content, name):
    class_list, scenes, things = EXPECTED[name]
    keys = dict(content[name])
    assert tuple(keys.pop("things")) == things
    folder = "$DETECTRON2_DATASETS/toy"
    assert keys == {
        "class_list": f"class_lists/{class_list}.txt",
        "image_root": f"{folder}/toy_{scenes}",
        "panoptic_root": f"{folder}/panoptic_{scenes}",
        "panoptic_json": f"{folder}/panoptic_{scenes}.json",
        "instances_json": f"{folder}/instances_{scenes}.json",
        "made_by": f"ita toy make {folder}",
    }


@pytest.mark.parametrize("split", SPLITS)
def test_class_lists_are_those_of_the_annotations(split):
    """The json files' category ids are the ids of this list."""
    assert EXPECTED[f"toy_{split}"][0] == SPLITS[split].class_list


def test_the_file_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "ita/toy/datasets.yaml"
    assert [row.name for row in read_custom(path)] == list(EXPECTED)
    for name, (class_list, *_) in EXPECTED.items():
        assert find_row(name, [path]).class_list.endswith(f"/toy/class_lists/{class_list}.txt")


@pytest.mark.parametrize("name", EXPECTED)
def test_they_are_registered_as_any_custom_set(name):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    assert metadata.described_in == str(FILE)
    assert metadata.class_list.name == EXPECTED[name][0]
    assert {metadata.class_list.names[i] for i in metadata.class_list.things} == {
        *EXPECTED[name][2]
    }
