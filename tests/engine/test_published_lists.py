"""Class lists in the published format, ``id:name,synonym``, for training and for evaluation."""

import json

import pytest

from ita.build import training_class_list
from ita.classes import parse_class_list, read_class_list
from ita.engine.checkpoint import read_checkpoint, trained_class_list
from ita.engine.trainer import Trainer
from ita.predictor import load
from tests.data import mini_sets

COCO = "openvocab_coco_2017_val_panoptic_with_sem_seg"
ADE = "openvocab_ade20k_panoptic_val"


@pytest.fixture
def published(tmp_path):
    """Lists for COCO (201 lines, 68 of them no class) and A-150, with names unlike ours."""
    ids = parse_class_list("coco133")
    names = [f"thing {i},things {i}" if i in ids else "invalid_class_id" for i in range(201)]
    names[1], names[18] = "person,girl,clothes", "dog,dogs"
    assert names.count("invalid_class_id") == 68
    coco = tmp_path / "coco_with_prompt_eng.txt"
    coco.write_text("".join(f"{i}:{name}\n" for i, name in enumerate(names)))
    ade = tmp_path / "ade20k_with_prompt_eng.txt"
    stuff = ["invalid_class_id", "clothes", "girl,boy", *(f"stuff {i},x {i}" for i in range(148))]
    ade.write_text("".join(f"{i}:{name}\n" for i, name in enumerate(stuff)))
    return coco, ade


def test_both_keys_take_published_lists(published, tiny_config, tmp_path, monkeypatch):
    """Training, the checkpoint, evaluation and the model loaded again have their names."""
    coco, ade = published
    root = tmp_path / "root"
    mini_sets.coco(root)
    mini_sets.ade150(root)
    keys = {"DATASETS__TRAIN": (COCO,), "DATASETS__TRAIN_VOCABULARY": coco}
    keys |= {"DATASETS__TEST": (COCO, ADE), "SOLVER__MAX_ITER": 1, "SOLVER__IMS_PER_BATCH": 1}
    keys |= {"DATASETS__TEST_VOCABULARY": (str(coco), str(ade)), "TEST__NUM_PICTURES": 0}
    cfg = tiny_config(**keys)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    training = training_class_list(cfg)
    assert len(training) == 133
    assert training.classes == read_class_list(coco).classes
    assert training.classes[0] == ("person", "girl", "clothes")
    assert training.things == set(range(80))

    trainer = Trainer(cfg)
    trainer.train()
    assert trainer.model.prepare_training().class_list.classes == training.classes
    folder = tmp_path / "run"
    results = json.loads((folder / "results.json").read_text())
    infos = {name: result["info"] for name, result in results["results"].items()}
    assert infos[COCO]["class_list"] == str(coco)
    assert (infos[ADE]["class_list"], infos[ADE]["classes"]) == (str(ade), 150)

    weights = folder / "model_final.pth"
    stored = trained_class_list(read_checkpoint(weights), weights)
    assert (stored.classes, stored.things) == (training.classes, training.things)
    cfg.DATASETS.TRAIN_VOCABULARY = ""
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load(tmp_path / "config.yaml", weights).model
    assert again.train_class_list.classes == training.classes
    # One class of the training list covers both: the published lists have such merges.
    test = read_class_list(ade)
    assert test.seen(again.train_class_list)[:3] == [True, True, False]
