import math

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils.events import EventStorage
from PIL import Image

from ita.evaluation.evaluators import build_evaluator
from ita.reports.evaluated_pictures import PicturesEvaluator
from ita.reports.extremes import Extremes
from ita.reports.pictures import draw_picture
from tests.evaluation.helpers import predictions
from tests.evaluation.scenes import SEEN, TRAINING, perfect_prediction, random_prediction


@pytest.fixture
def pictures_of(scenes, tmp_path):
    """Evaluates all scenes; the pictures of the results."""

    def evaluate(count, predict=random_prediction):
        pictures = PicturesEvaluator(scenes.metadata, scenes.class_list, SEEN, tmp_path, count)
        metrics = build_evaluator(
            scenes.name,
            scenes.class_list,
            TRAINING,
            semantic=True,
            panoptic=False,
            instance=False,
            dominant=False,
            on_image=pictures.add_score,
        )
        evaluator = DatasetEvaluators([metrics, pictures])
        evaluator.reset()
        for record in scenes.records:
            evaluator.process([record], [predict(record)])
        return evaluator.evaluate()["pictures"]

    return evaluate


def extremes_of(scores, count):
    extremes = Extremes(count)
    for number, score in enumerate(scores):
        label_map = torch.full((2, 2), number)
        extremes.add({"file_name": str(number)}, {"label_map": label_map}, score)
    return [[int(image.record["file_name"]) for image in images] for images in extremes.gather()]


def test_best_and_worst_are_those_of_a_sort():
    scores = np.random.default_rng(0).integers(0, 40, 200).tolist()
    ranked = sorted(range(200), key=lambda i: -scores[i])  # stable: ties in the order of the data
    assert extremes_of(scores, 7) == [ranked[:7], ranked[:-8:-1]]


@pytest.mark.parametrize(
    ("scores", "best", "worst"),
    [
        ([], [], []),
        ([5.0], [0], []),
        ([5.0, 9.0, 7.0], [1, 2], [0]),
        ([1.0, 2.0, 3.0, 4.0], [3, 2], [0, 1]),
        ([1.0, math.nan, 3.0], [2], [0]),
    ],
)
def test_no_image_is_among_the_best_and_the_worst(scores, best, worst):
    assert extremes_of(scores, 2) == [best, worst]


def test_label_maps_outlive_their_tensors_unchanged(scenes):
    """Also if the model reuses its memory."""
    record, output = scenes.records[0], random_prediction(scenes.records[0])
    extremes = Extremes(1)
    extremes.add({**record, "image": torch.zeros(3, 500, 500)}, output, 50.0)
    picture = draw_picture(record, output, scenes.metadata)
    output["label_map"].zero_()
    output["panoptic_seg"][0].zero_()
    ((image,), _) = extremes.gather()
    assert (draw_picture(image.record, image.prediction, scenes.metadata) == picture).all()
    assert "image" not in image.record


def test_scores_are_those_of_single_images(pictures_of, scenes):
    pictures = pictures_of(3)
    expected = {record["file_name"]: score_of(scenes, record) for record in scenes.records}
    scores = sorted((s for s in expected.values() if not math.isnan(s)), reverse=True)
    assert [entry["score"] for entry in pictures["best"]] == pytest.approx(scores[:3])
    assert [entry["score"] for entry in pictures["worst"]] == pytest.approx(scores[:-4:-1])
    for entry in pictures["best"] + pictures["worst"]:
        (path,) = [path for path in expected if path.endswith(entry["image"])]
        assert entry["score"] == pytest.approx(expected[path])


def score_of(scenes, record):
    """Mean IoU over the classes in truth or prediction, by sets of pixels."""
    truth = np.full((record["height"], record["width"]), -1)
    perfect, _ = perfect_prediction(record)["panoptic_seg"]
    for segment in record["segments_info"]:
        truth[perfect.numpy() == segment["id"]] = segment["category_id"]
    prediction = np.where(truth < 0, -1, random_prediction(record)["label_map"].numpy())
    ious = [
        ((truth == c) & (prediction == c)).sum() / ((truth == c) | (prediction == c)).sum()
        for c in range(len(SEEN))
        if ((truth == c) | (prediction == c)).any()
    ]
    return 100 * np.mean(ious) if ious else math.nan


def test_files_are_the_pictures_of_their_images(pictures_of, scenes, tmp_path):
    pictures = pictures_of(2)
    records = {record["file_name"].split("/")[-1]: record for record in scenes.records}
    for entry in (entry for entries in pictures.values() for entry in entries):
        record = records[entry["image"]]
        output = random_prediction(record)
        expected = draw_picture(record, output, scenes.metadata, scenes.class_list, SEEN)
        assert (np.array(Image.open(tmp_path / entry["file"])) == expected).all()
    assert [entry["image"] for entry in pictures["first"]] == list(records)[:2]
    assert all("score" not in entry for entry in pictures["first"])


def test_pictures_of_an_earlier_evaluation_are_removed(pictures_of, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"")
    pictures_of(3)
    before = {path.name for path in tmp_path.iterdir()}
    pictures = pictures_of(1, perfect_prediction)
    names = {entry["file"] for entries in pictures.values() for entry in entries}
    after = {path.name for path in tmp_path.iterdir()}
    assert after == names | {"mine.png"}
    assert len(names) == 3
    assert before - after


def test_pictures_tell_what_training_did_not_see(scenes, tmp_path):
    record, output = scenes.records[0], random_prediction(scenes.records[0])
    for folder, seen in (("some", SEEN), ("all", (True,) * 6)):
        evaluator = PicturesEvaluator(
            scenes.metadata, scenes.class_list, seen, tmp_path / folder, 1
        )
        evaluator.process([record], [output])
        evaluator.evaluate()
    some, every = (np.array(Image.open(tmp_path / f / "00_scene_100.png")) for f in ("some", "all"))
    assert (some == draw_picture(record, output, scenes.metadata, None, SEEN)).all()
    assert (every == draw_picture(record, output, scenes.metadata)).all()
    assert some.shape != every.shape or (some != every).any()


def test_first_images_are_written_and_go_to_tensorboard(scenes, tmp_path):
    """Without scores, as with panoptic results only, there are no others."""
    evaluator = PicturesEvaluator(scenes.metadata, scenes.class_list, SEEN, tmp_path, 2)
    with EventStorage(start_iter=7) as storage:
        evaluator.process(scenes.records[:2], predictions(scenes)[:2])
        evaluator.process([{"file_name": "not even opened.png"}], [{}])
        pictures = evaluator.evaluate()["pictures"]
    names = ["00_scene_100", "01_scene_103"]
    assert [entry["file"] for entry in pictures["first"]] == [f"{name}.png" for name in names]
    assert pictures["best"] == pictures["worst"] == []
    assert sorted(p.stem for p in tmp_path.iterdir()) == names
    for name, (tag, image, iteration) in zip(names, storage._vis_data, strict=True):
        assert (tag, iteration) == (f"{scenes.name}/{name}", 7)
        assert (image.transpose(1, 2, 0) == np.array(Image.open(tmp_path / f"{name}.png"))).all()
