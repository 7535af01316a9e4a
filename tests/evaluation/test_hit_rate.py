import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ita.classes import ClassList
from ita.errors import UserError
from ita.evaluation.hit_rate import DominantEvaluator
from ita.evaluation.truth import GroundTruth
from tests.evaluation.helpers import dominant, predictions, truth
from tests.evaluation.scenes import perfect_prediction

CLASSES = ClassList.from_strings("five", ["cat", "dog, puppy", "sky", "sea", "sand"])
SEEN = (True, True, False, False, False)
IGNORE = 255


def run(tmp_path, *images, seen=SEEN):
    """Metrics of images given as (classes in the label, classes of the dominant categories, …).

    After these may come what was segmented: pairs of a query and a class.
    """
    metadata = SimpleNamespace(
        class_list=CLASSES,
        ignore_label=IGNORE,
        ignored_label_values=(IGNORE,),
        label_ids=tuple(range(5)),
    )
    evaluator = DominantEvaluator(GroundTruth(metadata, CLASSES), CLASSES, seen)
    for number, (label, found, *segmented) in enumerate(images):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.array([label], dtype=np.uint8)).save(path)
        record = {"file_name": "image.png", "sem_seg_file_name": str(path)}
        output = {"dominant_classes": torch.tensor(found)}
        for segments in segmented:
            infos = [{"query": query, "category_id": category} for query, category in segments]
            output["panoptic_seg"] = None, infos
        evaluator.process([record], [output])
    return evaluator.evaluate()["dominant"]


def test_a_class_counts_once_in_every_image_that_shows_it(tmp_path):
    """However large it is, and however many of its names are dominant."""
    metrics = run(
        tmp_path,
        ([0, 0, 0, 0, 2, IGNORE], [1, 0, 0]),  # the cat, not the sky
        ([0, 1, 1, 3, 3, 3], [3, 4, -1]),  # the sea, neither cat nor dog
        ([3, 3, 3, 3, 3, 3], [3, 1, 0]),
    )
    assert {k: v for k, v in metrics.items() if not math.isnan(v)} == {
        "hit_rate": pytest.approx(100 * 3 / 6),
        "hit_rate_seen": pytest.approx(100 * 1 / 3),
        "hit_rate_unseen": pytest.approx(100 * 2 / 3),
        "num_dominant": 3,
    }


def test_what_text_queries_segment(tmp_path):
    """Theirs come first: of the last image's five segments three are of its two text queries."""
    metrics = run(
        tmp_path,
        ([0, 1], [0, 1], [(2, 0), (3, 1)]),  # found by learned queries, whatever their class
        ([0, 1], [0, 1], []),
        ([0, 1], [1, 0], [(0, 1), (0, 4), (1, 1), (2, 1), (9, 0)]),
    )
    assert metrics["text_query_segments"] == pytest.approx(100 * 3 / 7)
    assert metrics["text_query_own_class"] == pytest.approx(100 * 1 / 3)


@pytest.mark.parametrize("segmented", [(), ([],), ([(1, 0)],)])
def test_without_segments_of_text_queries_there_is_nothing_to_say_of_their_class(
    tmp_path, segmented
):
    metrics = run(tmp_path, ([0], [0], *segmented))
    assert math.isnan(metrics["text_query_own_class"])
    assert math.isnan(metrics["text_query_segments"]) is (segmented != ([(1, 0)],))


def test_other_is_no_class(tmp_path):
    metrics = run(tmp_path, ([4, 4], [-1, -1], [(0, 4)]))
    assert metrics["hit_rate"] == 0
    assert metrics["text_query_own_class"] == 0


def test_what_is_not_shown_has_no_number(tmp_path):
    metrics = run(tmp_path, ([IGNORE, 0], [2, 0]), ([IGNORE], [1, 1]))
    assert metrics["hit_rate"] == metrics["hit_rate_seen"] == 100
    assert math.isnan(metrics["hit_rate_unseen"])
    nothing = run(tmp_path, ([IGNORE], [1, 1]))
    assert all(math.isnan(nothing[k]) for k in ("hit_rate", "hit_rate_seen", "hit_rate_unseen"))
    assert nothing["num_dominant"] == 2
    assert math.isnan(run(tmp_path)["hit_rate"])


def test_everything_found_is_100(scenes):
    metrics = dominant(scenes, predictions(scenes, perfect_prediction))
    del metrics["num_dominant"]
    assert set(metrics.values()) == {100.0}


def test_label_outside_the_list_is_an_error_with_the_file(tmp_path):
    with pytest.raises(UserError, match=r"0\.png.* 7 "):
        run(tmp_path, ([0, 7], [0]))


def test_segment_outside_the_list_is_an_error_with_the_file(scenes):
    record, output = scenes.records[0], perfect_prediction(scenes.records[0])
    segment = {**record["segments_info"][0], "category_id": 6}
    record = {**record, "segments_info": [segment, *record["segments_info"][1:]]}
    evaluator = DominantEvaluator(truth(scenes), scenes.class_list, (True,) * 6)
    with pytest.raises(UserError, match=r"scene_100\.png.* 6 "):
        evaluator.process([record], [output])
