import logging

import pytest

from ita.classes import ClassList
from ita.data.registration import class_list_for
from ita.errors import UserError
from ita.evaluation.evaluators import build_evaluator
from tests.evaluation.helpers import dominant, panoptic, predictions, semantic
from tests.evaluation.scenes import (
    CATEGORY_IDS,
    NAMES,
    SEEN,
    TRAINING,
    perfect_prediction,
    random_prediction,
)

TASKS = ("semantic", "panoptic", "instance", "dominant")


def build(scenes, class_list=None, **switches):
    tasks = {**dict.fromkeys(TASKS, False), **switches}
    class_list = class_list or scenes.class_list
    return build_evaluator(scenes.name, class_list, TRAINING, **tasks)


def evaluate(evaluator, scenes, predict=random_prediction):
    evaluator.reset()
    for record in scenes.records:
        evaluator.process([record], [predict(record)])
    return evaluator.evaluate()


@pytest.mark.parametrize(
    ("switch", "task"),
    list(zip(TASKS, ("sem_seg", "panoptic_seg", "segm", "dominant"), strict=True)),
)
def test_only_the_tasks_asked_for(scenes, switch, task):
    results = evaluate(build(scenes, **{switch: True}), scenes)
    assert results.keys() == {"info", task, *(["confusions"] if task == "sem_seg" else [])}
    assert results["info"] == {
        "class_list": scenes.class_list.name,
        "classes": 6,
        "classes_seen": sum(SEEN),
        "seen": ["3:cat", "12:dog", "20:grass", "31:cat"],
        "train_class_list": "training",
        "images": len(scenes.records),
    }


def test_reset_forgets(scenes):
    evaluator = build(scenes, **dict.fromkeys(TASKS, True))
    expected = evaluate(evaluator, scenes)
    assert str(evaluate(evaluator, scenes, perfect_prediction)) != str(expected)
    assert str(evaluate(evaluator, scenes)) == str(expected)


def test_what_is_seen_is_said_by_the_training_list(scenes):
    assert tuple(scenes.class_list.seen(TRAINING)) == SEEN
    results = evaluate(build(scenes, **dict.fromkeys(TASKS, True)), scenes)
    outputs = predictions(scenes)
    for task, metrics in (
        ("sem_seg", semantic),
        ("panoptic_seg", panoptic),
        ("dominant", dominant),
    ):
        assert str(results[task]) == str(metrics(scenes, outputs, SEEN))
        assert str(results[task]) != str(metrics(scenes, outputs, (True,) * 6))


def test_results_name_the_list_in_use(scenes):
    replacement = ClassList.from_strings("mine", ["a", "b", "c", "d", "e", "f"])
    results = evaluate(build(scenes, replacement, semantic=True), scenes)
    assert results["info"]["class_list"] == "mine"
    assert "IoU-5:f" in results["sem_seg"]


def test_classes_have_the_label_ids_of_the_list_in_use(scenes, tmp_path):
    """Those of the data set's own list, or of the one that replaces it."""
    own = evaluate(build(scenes, semantic=True), scenes)["sem_seg"]
    expected = [f"IoU-{i}:{name}" for i, name in zip(CATEGORY_IDS, NAMES, strict=True)]
    assert [key for key in own if key.startswith("IoU-")] == expected
    path = tmp_path / "published.txt"
    path.write_text("0:invalid_class_id\n2:a,b\n5:c\n6:d\n7:e\n8:f\n90:g\n")
    replaced = evaluate(
        build(scenes, class_list_for(scenes.name, str(path)), semantic=True), scenes
    )
    assert "IoU-2:a" in replaced["sem_seg"]
    assert replaced["sem_seg"]["IoU-90:g"] == own["IoU-44:bus"]


def test_list_of_another_length_is_an_error(scenes):
    with pytest.raises(UserError, match=r"mine has 1 classes, but data set .* has 6"):
        build(scenes, ClassList.from_strings("mine", ["a"]), semantic=True)


@pytest.mark.parametrize(
    ("key", "task"), [("json_file", "instance AP"), ("panoptic_json", "panoptic quality")]
)
@pytest.mark.parametrize("gone", [True, False])
def test_task_without_truth_is_skipped_and_said_so(scenes, caplog, key, task, gone):
    if gone:
        delattr(scenes.metadata, key)
    else:
        vars(scenes.metadata)[key] = "nowhere.json"
    with caplog.at_level(logging.WARNING):
        evaluator = build(scenes, semantic=True, panoptic=True, instance=True)
    (line,) = caplog.messages
    assert line.startswith(f"{task} on {scenes.name}: skipped, ")
    skipped = {"json_file": "segm", "panoptic_json": "panoptic_seg"}[key]
    assert evaluate(evaluator, scenes).keys() == {
        *("info", "sem_seg", "confusions", "panoptic_seg", "segm")
    } - {skipped}


def test_all_skipped_tasks_are_in_one_warning(scenes, caplog):
    for key in ("json_file", "panoptic_json"):
        vars(scenes.metadata)[key] = "nowhere.json"
    with caplog.at_level(logging.WARNING):
        build(scenes, semantic=True, panoptic=True, instance=True)
    (line,) = caplog.messages
    assert line.startswith("panoptic quality and instance AP on ")
    assert line.count("nowhere.json does not exist") == 1
