import copy
import json
import math
import shutil
import tempfile
from types import SimpleNamespace

import pytest
import torch

from ita.errors import UserError
from ita.evaluation.panoptic import PanopticEvaluator
from tests.evaluation.helpers import evaluate, panoptic, predictions, truth
from tests.evaluation.scenes import (
    ABSENT,
    CATEGORY_IDS,
    SEEN,
    THING_IDS,
    perfect_prediction,
    registered,
)


def empty_prediction(record):
    size = record["height"], record["width"]
    return {"panoptic_seg": (torch.zeros(size, dtype=torch.int32), [])}


def test_perfect_predictions_give_100(scenes):
    assert set(panoptic(scenes, predictions(scenes, perfect_prediction)).values()) == {100.0}


def test_empty_predictions_give_0(scenes):
    metrics = panoptic(scenes, predictions(scenes, empty_prediction))
    for suffix in ("", "_seen", "_unseen"):  # there is no segment whose class could be right
        assert math.isnan(metrics.pop(f"class_accuracy{suffix}"))
        assert math.isnan(metrics.pop(f"class_accuracy_th{suffix}"))
    assert set(metrics.values()) == {0.0}


def test_perfect_masks_of_wrong_classes(scenes):
    """Things and stuff change places, seen and unseen ones too; but the unseen bus stays a bus."""
    outputs = predictions(scenes, perfect_prediction)
    other = {0: 1, 1: 0, 2: 3, 3: 2, 5: 5}
    for output in outputs:
        for segment in output["panoptic_seg"][1]:
            segment["category_id"] = other[segment["category_id"]]
    metrics = panoptic(scenes, outputs)
    true = [
        s["category_id"] for r in scenes.records for s in r["segments_info"] if not s["iscrowd"]
    ]
    unseen = [c for c in true if not SEEN[c]]
    things = [c for c in true if c in THING_IDS]
    assert metrics["PQ"] < 25
    assert metrics["mask_PQ"] == 100
    assert metrics["class_accuracy"] == pytest.approx(100 * true.count(5) / len(true))
    assert metrics["class_accuracy_th"] == pytest.approx(100 * things.count(5) / len(things))
    assert metrics["class_accuracy_seen"] == 0
    assert metrics["class_accuracy_unseen"] == pytest.approx(100 * unseen.count(5) / len(unseen))


def test_a_class_that_the_json_lacks_may_be_predicted(scenes, scenes_folder, tmp_path):
    """It is wrong where it stands, but no class of its own in the means, as it does not occur."""
    folder = shutil.copytree(scenes_folder, tmp_path / "copy")
    path = folder / "panoptic.json"
    content = json.loads(path.read_text())
    content["categories"] = [c for c in content["categories"] if c["id"] != CATEGORY_IDS[ABSENT]]
    path.write_text(json.dumps(content))
    outputs = predictions(scenes, perfect_prediction)
    changed = []
    for output in outputs:
        segments = [s for s in output["panoptic_seg"][1] if s["category_id"] == 1][:1]
        for segment in segments:
            segment["category_id"] = ABSENT
            changed.append(segment)
    with registered(folder, "lacking") as lacking:
        metrics = panoptic(lacking, outputs)
    assert changed
    assert metrics["PQ"] == pytest.approx(100 * 4 / 5)
    assert metrics["class_accuracy"] < metrics["class_accuracy_seen"] == 100


def test_outputs_are_left_as_they_are_and_nothing_stays_on_disk(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outputs = predictions(scenes)
    before = copy.deepcopy([output["panoptic_seg"][1] for output in outputs])
    panoptic(scenes, outputs)
    assert [output["panoptic_seg"][1] for output in outputs] == before
    assert not list(tmp_path.iterdir())


def test_image_without_prediction_is_an_error(scenes):
    evaluator = PanopticEvaluator(scenes.metadata, truth(scenes), SEEN)
    with pytest.raises(UserError, match=r"1 images of .*panoptic\.json .*image 118"):
        evaluate(evaluator, scenes.records[:-1], predictions(scenes)[:-1])


def test_prediction_of_another_size_is_an_error_with_the_file(scenes):
    output = {"panoptic_seg": (torch.zeros(5, 6, dtype=torch.int32), [])}
    with pytest.raises(UserError, match=r"scene_100\.png is 101 × 78 .* 6 × 5"):
        PanopticEvaluator(scenes.metadata, truth(scenes), SEEN).process(
            scenes.records[:1], [output]
        )


@pytest.mark.parametrize("kept", [0, 30, 300])
def test_truncated_truth_is_one_line_with_the_file(scenes, scenes_folder, tmp_path, kept, capfd):
    folder = shutil.copytree(scenes_folder, tmp_path / "copy")
    path = folder / "panoptic/scene_100.png"
    path.write_bytes(path.read_bytes()[:kept])
    with registered(folder, "truncated") as broken:
        evaluator = PanopticEvaluator(broken.metadata, truth(broken), SEEN)
        with pytest.raises(UserError, match=r"copy/panoptic/scene_100\.png") as error:
            evaluator.process(broken.records[:1], [perfect_prediction(scenes.records[0])])
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["{", "[]", '{"categories": []}'])
def test_broken_json_is_one_line_with_the_file(scenes, tmp_path, content):
    path = tmp_path / "panoptic.json"
    path.write_text(content)
    metadata = SimpleNamespace(panoptic_json=str(path), panoptic_root=str(tmp_path), thing_ids=())
    with pytest.raises(UserError, match=r"panoptic\.json"):
        PanopticEvaluator(metadata, truth(scenes), SEEN)


def test_without_stuff_only_its_numbers_are_missing(scenes_folder, tmp_path):
    folder = shutil.copytree(scenes_folder, tmp_path / "copy")
    path = folder / "panoptic.json"
    content = json.loads(path.read_text())
    things = {CATEGORY_IDS[i] for i in THING_IDS}
    for annotation in content["annotations"]:
        segments = annotation["segments_info"]
        annotation["segments_info"] = [s for s in segments if s["category_id"] in things]
    path.write_text(json.dumps(content))
    with registered(folder, "only_things") as scenes:
        outputs = []
        for record in scenes.records:
            ids, segments = perfect_prediction(record)["panoptic_seg"]
            for stuff in (1000, 70000):
                ids[ids == stuff] = 0
            outputs.append({"panoptic_seg": (ids, segments)})
        metrics = panoptic(scenes, outputs)
    assert math.isnan(metrics.pop("PQ_st"))
    assert math.isnan(metrics.pop("SQ_st"))
    assert math.isnan(metrics.pop("RQ_st"))
    assert set(metrics.values()) == {100.0}


def test_instances_json_may_number_things_otherwise(scenes):
    """As in ADE20K, where the panoptic json knows a class as 7 and the instances json as 4."""
    metadata = scenes.metadata
    vars(metadata)["thing_dataset_id_to_contiguous_id"] = {1: 0, 2: 2, 3: 5}
    assert set(panoptic(scenes, predictions(scenes, perfect_prediction)).values()) == {100.0}
