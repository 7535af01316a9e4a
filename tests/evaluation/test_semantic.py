import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ita.classes import ClassList
from ita.errors import UserError
from ita.evaluation.semantic import SemanticEvaluator, image_miou
from ita.evaluation.truth import GroundTruth
from tests.evaluation.helpers import predictions, semantic, truth
from tests.evaluation.scenes import ABSENT, CATEGORY_IDS, SEEN, perfect_prediction

IGNORE = 65535


def run(tmp_path, label, prediction, classes, seen=(), whole=False):
    """Metrics of one image whose label PNG holds ``label``."""
    path = tmp_path / "label.png"
    Image.fromarray(np.array(label, dtype=np.uint16)).save(path)
    metadata = SimpleNamespace(
        class_list=class_list(classes),
        ignore_label=IGNORE,
        ignored_label_values=(IGNORE,),
        label_ids=tuple(range(classes)),
    )
    flags = tuple(i in seen for i in range(classes))
    evaluator = SemanticEvaluator(
        GroundTruth(metadata, metadata.class_list), metadata.class_list, flags
    )
    record = {"file_name": "image.png", "sem_seg_file_name": str(path)}
    evaluator.process([record], [{"label_map": torch.tensor(prediction)}])
    results = evaluator.evaluate()
    return results if whole else results["sem_seg"]


def class_list(count):
    return ClassList.from_strings("numbers", [f"class {i}" for i in range(count)])


def test_perfect_predictions_give_100(scenes):
    metrics = semantic(scenes, predictions(scenes, perfect_prediction))
    absent = metrics.pop(f"IoU-{CATEGORY_IDS[ABSENT]}:cat")
    assert math.isnan(absent)
    assert metrics.pop("classes_present") == 5
    assert set(metrics.values()) == {100.0}


def test_ignored_pixels_and_classes_that_do_not_occur(tmp_path):
    label = [[0, 0, 0, 1], [1, IGNORE, IGNORE, IGNORE]]
    # One pixel of 0 is taken for 2, which does not occur; what is said of ignored pixels is lost.
    prediction = [[0, 0, 2, 1], [0, 1, 1, 2]]
    metrics = run(tmp_path, label, prediction, classes=4)
    iou = [2 / 4, 1 / 2]
    assert metrics["mIoU"] == pytest.approx(100 * sum(iou) / 2)
    assert metrics["fwIoU"] == pytest.approx(100 * (3 / 5 * iou[0] + 2 / 5 * iou[1]))
    assert metrics["mACC"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert metrics["pACC"] == pytest.approx(100 * 3 / 5)
    assert metrics["classes_present"] == 2
    assert metrics["IoU-0:class 0"] == pytest.approx(50)
    assert math.isnan(metrics["IoU-2:class 2"])


def test_seen_and_unseen_classes(tmp_path):
    """A class that does not occur counts on neither side."""
    label = [[0, 0, 1, 1, 2, 2, 2, 2]]
    prediction = [[0, 0, 1, 0, 2, 3, 4, 4]]
    metrics = run(tmp_path, label, prediction, classes=5, seen=(0, 1, 4))
    assert metrics["mIoU_seen"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert metrics["mIoU_unseen"] == pytest.approx(25)
    assert metrics["mIoU"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1 / 4) / 3)
    one, other = metrics["mIoU_seen"], 25
    assert metrics["mIoU_harmonic"] == pytest.approx(2 * one * other / (one + other))


@pytest.mark.parametrize(("seen", "has"), [((0, 1), "seen"), ((2,), "unseen"), ((), "unseen")])
def test_a_side_of_which_no_class_occurs_has_no_number(tmp_path, seen, has):
    metrics = run(tmp_path, [[0, 1]], [[0, 2]], classes=3, seen=seen)
    lacks = {"seen": "unseen", "unseen": "seen"}[has]
    assert metrics[f"mIoU_{has}"] == metrics["mIoU"] == 50
    assert math.isnan(metrics[f"mIoU_{lacks}"])
    assert math.isnan(metrics["mIoU_harmonic"])


def test_harmonic_mean_is_0_where_everything_is_wrong(tmp_path):
    metrics = run(tmp_path, [[0, 1]], [[2, 2]], classes=3, seen=(0,))
    assert metrics["mIoU_seen"] == metrics["mIoU_unseen"] == metrics["mIoU_harmonic"] == 0


def test_one_class(tmp_path):
    metrics = run(tmp_path, [[0, IGNORE], [0, 0]], [[0, 0], [0, 0]], classes=1)
    assert metrics["mIoU"] == metrics["pACC"] == 100


def test_more_classes_than_a_byte_holds(tmp_path):
    label = [[0, 255, 256], [846, 846, IGNORE]]
    prediction = [[0, 255, 0], [846, 846, 3]]
    metrics = run(tmp_path, label, prediction, classes=847)
    assert metrics["mIoU"] == pytest.approx(100 * (1 / 2 + 1 + 0 + 1) / 4)
    assert metrics["classes_present"] == 4


def test_nothing_labelled_has_no_number(tmp_path):
    metrics = run(tmp_path, [[IGNORE, IGNORE]], [[0, 1]], classes=2)
    assert math.isnan(metrics["mIoU"])
    assert math.isnan(metrics["pACC"])


def test_label_of_another_size_is_an_error_with_the_file(tmp_path):
    with pytest.raises(UserError, match=r"label\.png.*2 × 3.*1 × 2"):
        run(tmp_path, [[0, 0, 0], [1, 1, 1]], [[0, 1]], classes=2)


def test_label_outside_the_list_is_an_error_with_the_file(tmp_path):
    with pytest.raises(UserError, match=r"label\.png.* 7 "):
        run(tmp_path, [[0, 7]], [[0, 1]], classes=2)


def test_segment_outside_the_list_is_an_error_with_the_file(scenes):
    record, output = scenes.records[0], perfect_prediction(scenes.records[0])
    segment = {**record["segments_info"][0], "category_id": 6}
    record = {**record, "segments_info": [segment, *record["segments_info"][1:]]}
    evaluator = SemanticEvaluator(truth(scenes), scenes.class_list, SEEN)
    with pytest.raises(UserError, match=r"scene_100\.png.* 6 "):
        evaluator.process([record], [output])


def test_confused_pairs_by_their_share_of_the_ground_truth(tmp_path):
    """Correct and ignored pixels are no confusion; of equal shares, more pixels are first."""
    label = [[0, 0, 0, 0, 1, 1, 2, 2], [3, 3, 3, 3, IGNORE, IGNORE, IGNORE, IGNORE]]
    prediction = [[0, 0, 0, 1, 1, 0, 1, 1], [2, 2, 2, 2, 0, 1, 2, 3]]
    pairs = run(tmp_path, label, prediction, classes=5, whole=True)["confusions"]["pairs"]
    assert [tuple(pair.values()) for pair in pairs] == [
        ("3:class 3", "2:class 2", 100.0, 4),
        ("2:class 2", "1:class 1", 100.0, 2),
        ("1:class 1", "0:class 0", 50.0, 1),
        ("0:class 0", "1:class 1", 25.0, 1),
    ]
    assert list(pairs[0]) == ["ground_truth", "predicted", "share", "pixels"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_label_maps_of_any_integers(scenes, dtype):
    outputs = predictions(scenes)
    expected = semantic(scenes, outputs)
    for output in outputs:
        output["label_map"] = output["label_map"].to(dtype)
    assert semantic(scenes, outputs) == pytest.approx(expected, nan_ok=True)


def test_label_map_of_another_list_is_an_error(scenes):
    evaluator = SemanticEvaluator(truth(scenes), scenes.class_list, SEEN)
    size = scenes.records[0]["height"], scenes.records[0]["width"]
    with pytest.raises(UserError, match="7 classes"):
        evaluator.process(scenes.records[:1], [{"label_map": torch.full(size, 6)}])


@pytest.mark.parametrize(
    ("label", "prediction", "ious"),
    [
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]], [1, 1]),
        ([[0, 0, 0, 1]], [[0, 0, 2, 1]], [2 / 3, 0, 1]),  # an invented class counts
        ([[0, 0, -1, 1]], [[0, 0, 2, 0]], [2 / 3, 0]),  # but not where void
        ([[255, 0, 1, -1]], [[255, 0, 255, 255]], [1 / 2, 1, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_miou_of_an_image(label, prediction, ious, dtype):
    label, prediction = torch.tensor(label, dtype=torch.int32), torch.tensor(prediction)
    score = image_miou(label, prediction.to(dtype), classes=256)
    assert score == pytest.approx(100 * sum(ious) / len(ious))


def test_an_image_without_labels_has_no_miou():
    assert math.isnan(image_miou(torch.full((2, 2), -1), torch.zeros(2, 2).int(), classes=3))


def test_each_image_is_told_with_its_miou(scenes):
    told = []
    evaluator = SemanticEvaluator(
        truth(scenes), scenes.class_list, SEEN, lambda *image: told.append(image)
    )
    outputs = predictions(scenes, perfect_prediction)
    evaluator.process(scenes.records, outputs)
    for (record, output, score), expected in zip(told, scenes.records, strict=True):
        assert record is expected
        assert output is outputs[scenes.records.index(expected)]
        assert score == 100 or not expected["segments_info"]
