"""What stored results depend on."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from ita.classes import read_class_list
from ita.config import load_config
from ita.data.catalogue import CATALOGUE
from ita.data.registration import register_all
from ita.engine.finished import dependencies_of_run, dependencies_of_set
from ita.modeling import clip_files
from tests.data import mini_sets
from tests.engine.tiny import REPOSITORY

CONFIG = REPOSITORY / "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
CLIP_FOLDER = "laionCLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
ADE150 = read_class_list("ade150")
(ADE,) = (row for row in CATALOGUE if row.family == "ade20k" and row.split == "val")


@pytest.fixture
def of_set(tmp_path, monkeypatch):
    """Make the dependencies of A-150 in miniature, for a root and a class list."""
    mini_sets.ade150(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    register_all()
    cfg = load_config(CONFIG, [])

    def make(root=tmp_path / "data", class_list=ADE150):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
        return dependencies_of_set(cfg, class_list, ADE, DatasetCatalog.get(ADE.name))

    return make


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("name", [ADE.panoptic_json, ADE.instances_json])
def test_annotation_files_that_appear_or_change(of_set, tmp_path, name):
    absent = of_set()
    path = tmp_path / "data" / name
    path.write_text("{}")
    present = of_set()
    assert changed(absent, present) == {"data"}
    os.utime(path, (1, 1))
    assert changed(present, of_set()) == {"data"}


def test_other_spellings_of_a_path_change_nothing(of_set):
    before = of_set()
    assert of_set(root=Path("data"), class_list=replace(ADE150, name="./ade150.txt")) == before
    other = replace(ADE150, classes=(("wall", "walls"), *ADE150.classes[1:]))
    assert changed(before, of_set(class_list=other)) == {"class list"}


def test_the_file_of_a_clip_tag(tmp_path, monkeypatch):
    """The weights' folder in the working directory is found without being named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip_files, "SEARCH_ROOTS", (Path(),))
    cfg, class_list = load_config(CONFIG, []), read_class_list("coco133")

    def make(name="coco133"):
        return dependencies_of_run(cfg, "hash", replace(class_list, name=name), "cpu")

    before = make()
    (tmp_path / CLIP_FOLDER).mkdir()
    (tmp_path / CLIP_FOLDER / "open_clip_pytorch_model.bin").write_bytes(b"1")
    after = make()
    assert changed(before, after) == {"files of the CLIP"}
    (tmp_path / CLIP_FOLDER / "open_clip_config.json").write_text("{}")
    assert changed(after, make()) == {"files of the CLIP"}
    assert make(name="lists/coco133.txt") == make()
