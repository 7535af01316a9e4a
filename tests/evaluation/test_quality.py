"""Counts of panoptic quality, with panopticapi as the oracle."""

import contextlib
import io
import json

import numpy as np
import pytest
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from ita.errors import UserError
from ita.evaluation.evaluators import build_evaluator
from ita.evaluation.masks import match_masks
from ita.evaluation.overlaps import Overlaps
from ita.evaluation.panoptic import PanopticEvaluator
from ita.evaluation.quality import count_quality
from tests.evaluation.helpers import predictions, truth
from tests.evaluation.scenes import SEEN, TRAINING, perfect_prediction

CLASSES = (3, 7, 12, 200)


def random_pair(random, size, true_count, predicted_count):
    """A map of ground truth and one that resembles it, with their segments."""
    ids = random.choice(2**24 - 1, true_count, replace=False) + 1
    blocks = random.integers(0, true_count + 1, (4, 4)).repeat(size[0] // 4, 0)
    places = blocks.repeat(size[1] // 4, 1)
    true = np.append(ids, 0)[places].astype(np.int32)
    predicted = random.integers(1, 2**24, true_count + 1)[np.roll(places, 1, axis=(0, 1))]
    predicted[random.random(predicted.shape) < 0.05] = 0
    for number in range(predicted_count):
        top, left = random.integers(0, size[0]), random.integers(0, size[1])
        predicted[top : top + 9, left : left + 9] = 2**24 - 1 - number
    areas = {i: int((true == i).sum()) for i in ids.tolist()}
    infos = [
        {
            "id": i,
            "category_id": int(random.choice(CLASSES[:3])),
            "iscrowd": int(random.random() < 0.3),
            # That of the json counts, whatever the map shows.
            "area": areas[i] + int(random.integers(0, 3) * (random.random() < 0.2)),
        }
        for i in ids.tolist()
    ]
    if random.random() < 0.3:  # an id on the map that the json lacks
        infos = infos[1:]
    classes = {i: s["category_id"] for i, s in zip(ids.tolist(), infos, strict=False)}
    found = []
    for segment in np.unique(predicted[predicted > 0]).tolist():
        below = true[predicted == segment]
        likely = classes.get(int(np.bincount(below).argmax()), CLASSES[3])
        category = likely if random.random() < 0.7 else int(random.choice(CLASSES))
        found.append({"id": segment, "category_id": category})
    return true, infos, predicted.astype(np.int32), found


def by_panopticapi(folder, true, infos, predicted, found):
    Image.fromarray(id2rgb(true)).save(folder / "true.png")
    Image.fromarray(id2rgb(predicted)).save(folder / "predicted.png")
    pair = (
        {"image_id": 0, "file_name": "true.png", "segments_info": infos},
        {"file_name": "predicted.png", "segments_info": [dict(segment) for segment in found]},
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute_single_core(0, [pair], folder, folder, set(CLASSES))


def ours(true, infos, predicted, found):
    overlaps = Overlaps.of_maps(true, infos, predicted, found)
    return count_quality(overlaps, infos, [segment["category_id"] for segment in found])


def as_numbers(counts):
    """Without the classes that were only asked for."""
    rows = {c: (s.tp, s.fp, s.fn, s.iou) for c, s in counts.pq_per_cat.items()}
    return {class_id: row for class_id, row in rows.items() if any(row)}


@pytest.mark.parametrize("seed", range(60))
def test_counts_are_exactly_those_of_panopticapi(tmp_path, seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 12, 2)
    pair = random_pair(random, (32, 48), *counts)
    assert as_numbers(ours(*pair)) == as_numbers(by_panopticapi(tmp_path, *pair))


def test_random_pairs_show_every_kind_of_count():
    """Else the test above would compare nothing."""
    totals = np.zeros(3)
    for seed in range(60):
        random = np.random.default_rng(seed)
        pair = random_pair(random, (32, 48), *random.integers(0, 12, 2))
        for row in as_numbers(ours(*pair)).values():
            totals += row[:3]
    assert (totals > 50).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
@pytest.mark.parametrize("true_id", [0, 5, 2**24 - 1])
def test_maps_of_one_segment(tmp_path, shape, true_id):
    true, predicted = np.full(shape, true_id, np.int32), np.full(shape, 9, np.int32)
    infos = [{"id": 5, "category_id": 3, "iscrowd": 0, "area": true.size}]
    pair = true, infos, predicted, [{"id": 9, "category_id": 3}]
    assert as_numbers(ours(*pair)) == as_numbers(by_panopticapi(tmp_path, *pair))


def test_ten_thousand_segments_on_either_side(tmp_path):
    true = np.arange(1, 20001, dtype=np.int32).reshape(100, 200)
    predicted = np.roll(true, 1)
    infos, found = (
        [{"id": i, "category_id": 3, "iscrowd": 0, "area": 1} for i in range(1, 20001)]
        for _ in range(2)
    )
    assert as_numbers(ours(true, infos, predicted, found)) == {3: (20000, 0, 0, 20000.0)}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_predicted_ids_of_any_type(dtype):
    true = np.full((4, 6), 2**24 - 1, np.int32)
    infos = [{"id": 2**24 - 1, "category_id": 0, "iscrowd": 0, "area": 24}]
    predicted = np.full((4, 6), 100, dtype)
    found = [{"id": 100, "category_id": 0}]
    assert as_numbers(ours(true, infos, predicted, found)) == {0: (1, 0, 0, 1.0)}
    overlaps = Overlaps.of_maps(true, infos, predicted, found)
    assert match_masks(overlaps, infos, found, 1).matched.tolist() == [1]


def test_map_and_list_of_a_prediction_must_agree(scenes):
    record = scenes.records[0]
    ids, segments = perfect_prediction(record)["panoptic_seg"]
    evaluator = PanopticEvaluator(scenes.metadata, truth(scenes), SEEN)
    lost = {"panoptic_seg": (ids, segments[1:])}
    with pytest.raises(UserError, match=rf"scene_100\.png.* {segments[0]['id']} .*not in the list"):
        evaluator.process([record], [lost])
    surplus = {"panoptic_seg": (ids, [*segments, {"id": 9, "category_id": 0}])}
    with pytest.raises(UserError, match=r"scene_100\.png.* 9 .*not on the map"):
        evaluator.process([record], [surplus])


def test_field_that_the_json_lacks_is_an_error_with_the_file(scenes, tmp_path):
    content = json.loads((tmp_path / scenes.metadata.panoptic_json).read_text())
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            del segment["area"]
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content))
    vars(scenes.metadata)["panoptic_json"] = str(path)
    evaluator = PanopticEvaluator(scenes.metadata, truth(scenes), SEEN)
    with pytest.raises(UserError, match=r"scene_100\.png.*'area'"):
        evaluator.process(scenes.records[:1], [perfect_prediction(scenes.records[0])])


def test_label_is_read_once_for_all_evaluators(scenes, monkeypatch):
    outputs = predictions(scenes, perfect_prediction)
    evaluator = build_evaluator(
        scenes.name,
        scenes.class_list,
        TRAINING,
        semantic=True,
        panoptic=True,
        instance=False,
        dominant=True,
    )
    opened, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path), original(path))[1])
    for record, output in zip(scenes.records, outputs, strict=True):
        evaluator.process([record], [output])
    assert len(opened) == len(scenes.records)
