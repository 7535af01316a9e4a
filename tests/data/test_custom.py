"""Data sets of one's own: what their YAML files may say."""

import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ita.data.reading import load_semantic_label
from ita.data.registration import class_list_for, register_custom
from ita.errors import UserError
from tests.data import mini_sets
from tests.data.mini import random_image

PAS21 = "openvocab_pascal21_sem_seg_val"
SEMANTIC = """
mini_fields:
  class_list: classes.txt
  image_root: images
  label_root: labels
  ignored_values: [0, 255]
  test_size: [320, 640]
"""
PANOPTIC = """
mini_pan:
  class_list: classes.txt
  image_root: images
  panoptic_root: panoptic
  panoptic_json: panoptic.json
  things: [grass, person]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "classes.txt").write_text("1: person, human\n3: dog\n7: sky\n9: grass, lawn\n")
    return tmp_path


@pytest.fixture
def register(folder):
    def register(text: str):
        path = folder / "mine.yaml"
        path.write_text(text)
        return register_custom([path])

    return register


def test_label_maps(register, folder, monkeypatch):
    """Paths start in the folder of the file; subfolders of images and labels are the same."""
    values = np.uint8([[1, 3], [9, 0], [255, 7]])
    mini_sets.save(values, folder / "labels" / "farm" / "a_mask.png")
    mini_sets.save(random_image(3, 2), folder / "images" / "farm" / "a.png")
    monkeypatch.chdir("/")
    (row,) = register(SEMANTIC + "  label_suffix: _mask.png\n")
    (record,) = DatasetCatalog.get("mini_fields")
    metadata = MetadataCatalog.get("mini_fields")
    assert record["image_id"] == "farm/a"
    assert metadata.test_size == row.test_size == (320, 640)
    assert metadata.thing_ids == ()
    label = load_semantic_label(record, metadata)
    np.testing.assert_array_equal(label, [[0, 1], [3, 255], [255, 2]])


@pytest.mark.parametrize(("suffixes", "chosen"), [((".tif",), 0), ((".avif", ".jpg"), 1)])
def test_one_image_for_each_label_map(suffixes, chosen, register, folder):
    mini_sets.save(np.uint8([[1, 3]]), folder / "labels" / "a.png")
    for suffix in suffixes:
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"a{suffix}").touch()
    register(SEMANTIC)
    (record,) = DatasetCatalog.get("mini_fields")
    assert record["file_name"] == str(folder / "images" / f"a{suffixes[chosen]}")


@pytest.mark.parametrize("image_root", ["images", "labels"])
def test_a_label_map_without_an_image(image_root, register, folder):
    (folder / "images").mkdir()
    mini_sets.save(np.uint8([[1, 3]]), folder / "labels" / "a.png")
    register(SEMANTIC.replace("root: images", f"root: {image_root}"))
    with pytest.raises(UserError, match=r"have no image \(.*\.jpg, .*\.tif, .* first is a\.png"):
        DatasetCatalog.get("mini_fields")


def test_panoptic_json(register, folder, quarters):
    quarters.write_json()
    for path in quarters.root.iterdir():
        if path.name != "classes.txt":
            path.rename(folder / path.name)
    register(PANOPTIC)
    (record,) = DatasetCatalog.get("mini_pan")
    metadata = MetadataCatalog.get("mini_pan")
    assert metadata.thing_classes == ["person", "grass"]
    assert [s["isthing"] for s in record["segments_info"]] == [True, False, True]
    assert set(np.unique(load_semantic_label(record, metadata))) == {0, 1, 3, 255}


def test_more_than_255_classes(register, folder):
    lines = [f"{i}: class {i}" for i in range(400)]
    (folder / "classes.txt").write_text("\n".join(lines))
    values = np.uint16([[0, 255, 399, 65535]])
    mini_sets.save(values, folder / "labels" / "a.png")
    mini_sets.save(random_image(1, 4), folder / "images" / "a.jpg")
    register(SEMANTIC.replace("[0, 255]", "[65535]"))
    (record,) = DatasetCatalog.get("mini_fields")
    metadata = MetadataCatalog.get("mini_fields")
    label = load_semantic_label(record, metadata)
    np.testing.assert_array_equal(label, [[0, 255, 399, metadata.ignore_label]])
    assert metadata.ignore_label > 399


BELOW_ROOT = """
mini_fields:
  class_list: classes.txt
  image_root: $DETECTRON2_DATASETS/fields/images
  label_root: $DETECTRON2_DATASETS/fields/labels
  made_by: make fields
"""


def test_paths_below_the_folder_of_all_data_sets(register, tmp_path, monkeypatch):
    """That folder is looked up when the set is loaded; other paths start in the file's folder."""
    root = tmp_path / "elsewhere"
    mini_sets.save(np.uint8([[1, 9]]), root / "fields" / "labels" / "a.png")
    mini_sets.save(random_image(1, 2), root / "fields" / "images" / "a.png")
    register(BELOW_ROOT)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    (record,) = DatasetCatalog.get("mini_fields")
    assert record["file_name"] == str(root / "fields" / "images" / "a.png")
    label = load_semantic_label(record, MetadataCatalog.get("mini_fields"))
    np.testing.assert_array_equal(label, [[0, 3]])


def test_a_class_list_below_the_folder_of_all_data_sets(register, tmp_path, monkeypatch):
    root = tmp_path / "elsewhere"
    root.mkdir()
    (root / "own.txt").write_text("1: crop\n2: weed\n")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    register(BELOW_ROOT.replace("classes.txt", "$DETECTRON2_DATASETS/own.txt"))
    assert MetadataCatalog.get("mini_fields").class_list.names == ("crop", "weed")


def test_a_class_list_of_the_package(register, tmp_path, monkeypatch):
    register(BELOW_ROOT.replace("classes.txt", "pas20"))
    assert len(MetadataCatalog.get("mini_fields").class_list) == 20


def test_a_set_that_is_not_made_yet_says_what_makes_it(register, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    register(BELOW_ROOT)
    with pytest.raises(UserError) as error:
        DatasetCatalog.get("mini_fields")
    assert f"looked for {tmp_path}/elsewhere/fields/images" in str(error.value)
    assert str(error.value).endswith("; run: make fields")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "cannot read .*mine.yaml: .*line 1"),
        ("", "describes no data set"),
        ("- a", "describes no data set"),
        ("mini_fields: 3", "mini_fields has no keys"),
        (SEMANTIC + "  labels: x\n", "unknown key labels; did you mean"),
        (SEMANTIC.replace("label_root", "label_rot"), "unknown key label_rot; .* label_root?"),
        (SEMANTIC + "  zzz: x\n", "unknown key zzz; expected one of class_list, image_root, "),
        (SEMANTIC.replace("  class_list: classes.txt\n", ""), "lacks class_list"),
        (SEMANTIC.replace("  image_root: images\n", ""), "lacks image_root"),
        (SEMANTIC.replace("  label_root: labels\n", ""), "has no labels; specify label_root, or"),
        (SEMANTIC.replace("images", "[images]"), r"image_root is \['images'\]; it must be a path"),
        (SEMANTIC.replace("[0, 255]", "[0, void]"), "ignored_values is .*'void'.* label values"),
        (SEMANTIC.replace("[0, 255]", "255"), "ignored_values is 255; it must be a list"),
        (SEMANTIC.replace("[0, 255]", '""'), "ignored_values is ''; it must be a list"),
        (SEMANTIC.replace("[0, 255]", "[-1]"), "label values must be from 0 to 65535"),
        (SEMANTIC.replace("[320, 640]", "[640, 320]"), "test_size is .* short side and maximum"),
        (SEMANTIC.replace("[320, 640]", "320"), "test_size is 320"),
        (SEMANTIC + "  made_by: [make]\n", "made_by is .* must be the command that creates"),
        (SEMANTIC.replace("[0, 255]", "[1]"), "mini_fields: label value 1 is both a class and"),
        (SEMANTIC.replace("classes.txt", "none.txt"), "cannot read class list .*none.txt"),
        (PANOPTIC.replace("grass, person", "dgo"), "thing dgo is not .* did you mean dog"),
        (PANOPTIC.replace("grass, person", "human"), "thing human is not the first name"),
        (PANOPTIC.replace("[grass, person]", "dog"), "things is 'dog'; it must be a list"),
        (PANOPTIC.replace("  things: [grass, person]\n", ""), "lacks things"),
        (PANOPTIC.replace("  panoptic_root: panoptic\n", ""), "go together"),
        (SEMANTIC.replace("mini_fields", PAS21), f"data set {PAS21} is already built in"),
        (
            SEMANTIC.replace("mini_fields", "toy_val"),
            r"toy_val is already defined in .*toy/datasets\.yaml",
        ),
        (SEMANTIC.replace("mini_fields", "coco_2017_val"), "coco_2017_val is already built in"),
    ],
)
def test_mistakes_are_named(register, folder, text, words):
    with pytest.raises(UserError) as error:
        register(text)
    assert re.search(words, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)
    assert "mini_fields" not in DatasetCatalog


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.yaml: .*No such file"):
        register_custom([tmp_path / "none.yaml"])


def test_twice_is_as_good_as_once_but_names_are_not_shared(register, folder):
    register(SEMANTIC)
    register(SEMANTIC)
    (folder / "other.yaml").write_text(SEMANTIC)
    with pytest.raises(UserError, match=r"mini_fields is already defined in .*mine\.yaml"):
        register_custom([folder / "other.yaml"])


def test_an_unknown_set_hints_at_custom_ones():
    with pytest.raises(UserError, match=r"unknown data set qqq; .*DATASETS\.CUSTOM"):
        class_list_for("qqq")
