"""Segmenters that share a model: vocabulary and options are values, not state."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset

from ita.classes import ClassList
from ita.modeling.vocabulary import TextEncoder
from ita.segmenter import Segmenter
from tests.recipe import INFERENCE
from tests.test_meta_arch import make_record, without_zeros

ANIMALS = ClassList.from_strings("animals", ["cat, kitten", "zebra", "horse"], (0, 1))
PLACES = ClassList.from_strings("places", ["sky", "sea", "beach", "street", "house, cottage"])


@pytest.fixture
def model(make_ita):
    return without_zeros(make_ita()).eval()


def segmenter_of(model, class_list, **options):
    vocabulary = model.make_vocabulary(class_list, TextEncoder(model.backbone))
    return Segmenter(model, vocabulary, replace(INFERENCE, **options))


def test_two_threads_segment_two_vocabularies_with_one_model(model):
    """Each gets the results that it gets alone, also while the other is within the model."""
    records = [make_record(64, 96, seed=i) for i in range(3)]
    segmenters = [segmenter_of(model, c, alpha=a) for c, a in ((ANIMALS, 0.1), (PLACES, 0.9))]
    expected = [[s([record])[0]["sem_seg"] for record in records] for s in segmenters]
    # Both threads wait for each other inside every forward pass, before the classes are used.
    meeting = threading.Barrier(2, timeout=20)

    def meet(*_):
        meeting.wait()

    hook = model.pixel_decoder.register_forward_hook(meet)
    try:
        with ThreadPoolExecutor(2) as pool:
            found = list(
                pool.map(lambda s: [s([record])[0]["sem_seg"] for record in records], segmenters)
            )
    finally:
        hook.remove()
    for ours, alone in zip(found, expected, strict=True):
        for scores, same in zip(ours, alone, strict=True):
            torch.testing.assert_close(scores, same)


def test_segmenters_are_independent_of_each_other(model):
    record = make_record(64, 64)
    animals = segmenter_of(model, ANIMALS)
    before = animals([record])[0]["sem_seg"]
    segmenter_of(model, PLACES, panoptic=True)([record])
    assert torch.equal(animals([record])[0]["sem_seg"], before)


def test_label_maps_are_the_best_classes(model):
    records = [make_record(64, 64, height=20, width=30), make_record(40, 50, seed=1)]
    segmenter = segmenter_of(model, ANIMALS)
    outputs, results = segmenter(records), segmenter.segment(records)
    for output, result, size in zip(outputs, results, [(20, 30), (40, 50)], strict=True):
        assert result.label_map.shape == size
        assert (result.label_map == output["sem_seg"].argmax(0).numpy()).all()
        assert result.names == ("cat", "zebra", "horse")


def test_things_come_from_the_class_list(model):
    (result,) = segmenter_of(model, ANIMALS, panoptic=True)([make_record(64, 64)])
    _, segments = result["panoptic_seg"]
    assert segments
    assert all(s["isthing"] == (s["category_id"] in (0, 1)) for s in segments)


def test_detectron2s_evaluation_loop_takes_a_segmenter(model):
    class Shapes(DatasetEvaluator):
        def reset(self):
            self.shapes = []

        def process(self, inputs, outputs):
            self.shapes += [tuple(output["sem_seg"].shape) for output in outputs]

        def evaluate(self):
            return {"shapes": self.shapes}

    records = [[make_record(32, 32 * i)] for i in range(1, 4)]
    results = inference_on_dataset(segmenter_of(model, PLACES), records, Shapes())
    assert results["shapes"] == [(5, 32, 32), (5, 32, 64), (5, 32, 96)]


def test_label_maps_need_semantic_results(model):
    with pytest.raises(ValueError, match="semantic"):
        segmenter_of(model, PLACES, semantic=False, panoptic=True).segment([make_record()])


def test_a_moved_model_encodes_its_training_classes_again(model, monkeypatch):
    """Else they would stay on the device that the model was on."""
    texts, encode = [], model.backbone.encode_text
    monkeypatch.setattr(model.backbone, "encode_text", lambda t, _: texts.extend(t) or encode(t))
    model.prepare_training()
    once = len(texts)
    model.prepare_training()
    assert len(texts) == once > 0
    model.to("cpu").prepare_training()
    assert len(texts) == 2 * once


def test_scores_are_computed_on_request_only(model):
    record = make_record(64, 64)
    labels, scores = (
        segmenter_of(model, PLACES, scores=s, semantic=not s)([record])[0] for s in (False, True)
    )
    assert labels.keys() == {"label_map", "dominant_classes"}
    assert scores.keys() == {"sem_seg", "dominant_classes"}
    assert torch.equal(labels["label_map"], scores["sem_seg"].argmax(dim=0))


def test_images_are_encoded_once_for_several_vocabularies(model, monkeypatch):
    records = [make_record(64, 96, height=30, width=20), make_record(40, 50, seed=1)]
    segmenters = [segmenter_of(model, ANIMALS), segmenter_of(model, PLACES)]
    expected = [segmenter.segment(records) for segmenter in segmenters]
    with torch.no_grad():
        images = model.encode_images(records)
    monkeypatch.setattr(model, "encode_images", None)
    for segmenter, results in zip(segmenters, expected, strict=True):
        for ours, result in zip(segmenter.segment_encoded(images), results, strict=True):
            assert (ours["label_map"].numpy() == result.label_map).all()


def test_results_need_no_gradient(model):
    (result,) = segmenter_of(model, PLACES)([make_record(32, 32)])
    assert not result["sem_seg"].requires_grad
