import json
import math
import shutil

import pytest
import torch
from detectron2.structures import Instances

from ita.errors import UserError
from ita.evaluation.instance import InstanceEvaluator
from tests.evaluation.helpers import evaluate, instance, predictions
from tests.evaluation.scenes import perfect_prediction, random_prediction, registered


def instances(size, masks, scores, classes):
    found = Instances(size)
    found.pred_masks = masks.reshape(-1, *size)
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {"instances": found}


def empty_prediction(record):
    size = record["height"], record["width"]
    return instances(size, torch.zeros(0, *size), [], [])


def test_perfect_predictions_give_100(scenes):
    """Thing ids are 0, 2 and 5, and an object's id in the json is 0."""
    metrics = instance(scenes, predictions(scenes, perfect_prediction))
    assert math.isnan(metrics.pop("APl"))  # there is no large object
    assert metrics == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm"), 100))


def test_no_detections_give_0(scenes):
    metrics = instance(scenes, predictions(scenes, empty_prediction))
    assert math.isnan(metrics.pop("APl"))
    assert set(metrics.values()) == {0.0}


def test_detections_of_stuff_change_nothing(scenes):
    def with_stuff(record):
        found = random_prediction(record)["instances"]
        everything = torch.ones(1, *found.image_size, dtype=torch.bool)
        stuff = instances(found.image_size, everything, [1.0], [1])["instances"]
        return {"instances": Instances.cat([stuff, found])}

    expected = instance(scenes, predictions(scenes))
    assert instance(scenes, predictions(scenes, with_stuff)) == pytest.approx(expected, nan_ok=True)


def test_masks_may_be_numbers(scenes):
    def as_numbers(record):
        found = random_prediction(record)["instances"]
        found.pred_masks = found.pred_masks.float()
        return {"instances": found}

    expected = instance(scenes, predictions(scenes))
    assert instance(scenes, predictions(scenes, as_numbers)) == pytest.approx(expected, nan_ok=True)


def test_ids_of_images_may_be_strings(scenes, scenes_folder, tmp_path):
    """As in ADE20K and Cityscapes."""
    folder = shutil.copytree(scenes_folder, tmp_path / "copy")
    for name in ("instances.json", "panoptic.json"):
        content = json.loads((folder / name).read_text())
        for image in content["images"]:
            image["id"] = f"scene {image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"scene {annotation['image_id']}"
        (folder / name).write_text(json.dumps(content))
    outputs = predictions(scenes)
    with registered(folder, "strings") as named:
        assert instance(named, outputs) == pytest.approx(instance(scenes, outputs), nan_ok=True)


def test_crowds_may_be_marked_by_booleans(scenes, scenes_folder, tmp_path):
    folder = shutil.copytree(scenes_folder, tmp_path / "copy")
    content = json.loads((folder / "instances.json").read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = bool(annotation["iscrowd"])
    (folder / "instances.json").write_text(json.dumps(content))
    outputs = predictions(scenes)
    with registered(folder, "booleans") as marked:
        assert instance(marked, outputs) == pytest.approx(instance(scenes, outputs), nan_ok=True)


def test_metrics_may_be_asked_for_twice(scenes):
    evaluator = InstanceEvaluator(scenes.metadata)
    metrics = evaluate(evaluator, scenes.records, predictions(scenes))
    assert evaluator.evaluate()["segm"] == pytest.approx(metrics, nan_ok=True)


def test_only_the_best_100_detections_of_an_image_count(scenes_folder, tmp_path):
    folder = _with_one_object(scenes_folder, tmp_path)
    with registered(folder, "one_object") as scenes:
        record = scenes.records[0]
        truth = perfect_prediction(record)["instances"]
        size = record["height"], record["width"]

        def with_false_ones(count):
            masks = torch.zeros(count + 1, *size, dtype=torch.bool)
            masks[:count, -3:, -3:] = True
            masks[count] = truth.pred_masks[0]
            scores = [0.9] * count + [0.1]
            output = instances(size, masks, scores, [int(truth.pred_classes[0])] * (count + 1))
            return evaluate(InstanceEvaluator(scenes.metadata), [record], [output])["AP"]

        assert with_false_ones(99) == pytest.approx(1)  # found at rank 100: precision 1 %
        assert with_false_ones(100) == 0


def _with_one_object(scenes_folder, tmp_path):
    """The scenes with the first object of the first image only."""
    folder = shutil.copytree(scenes_folder, tmp_path / "copy")
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    return folder


def test_image_that_the_json_lacks_is_an_error(scenes):
    record = {**scenes.records[0], "image_id": 12345}
    with pytest.raises(UserError, match=r"image 12345 .*instances\.json"):
        InstanceEvaluator(scenes.metadata).process([record], [empty_prediction(record)])


def test_masks_of_another_size_are_an_error(scenes):
    output = instances((4, 5), torch.ones(1, 4, 5), [0.5], [0])
    with pytest.raises(UserError, match=r"image 100 is 78 × 101 .* 4 × 5"):
        InstanceEvaluator(scenes.metadata).process(scenes.records[:1], [output])


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [], "categories": []}'])
def test_broken_json_is_one_line_with_the_file(scenes, tmp_path, content, capfd):
    path = tmp_path / "instances.json"
    path.write_text(content)
    vars(scenes.metadata)["json_file"] = str(path)
    with pytest.raises(UserError, match=r"instances\.json") as error:
        InstanceEvaluator(scenes.metadata)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().out == ""
