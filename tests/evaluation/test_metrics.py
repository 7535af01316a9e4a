"""The evaluators against an independent script and Detectron2's evaluators."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import Boxes
from PIL import Image

from tests.evaluation import independent
from tests.evaluation.helpers import (
    dominant,
    evaluate,
    instance,
    panoptic,
    predictions,
    semantic,
)
from tests.evaluation.scenes import (
    CATEGORY_IDS,
    IGNORE,
    NAMES,
    SEEN,
    THING_IDS,
    save_predictions,
)

SEEN_IDS = [i for i, seen in enumerate(SEEN) if seen]


@pytest.fixture
def saved(scenes, tmp_path):
    save_predictions(tmp_path / "saved", scenes.records, predictions(scenes))
    return tmp_path / "saved"


class TestAgainstIndependentScript:
    def test_semantic(self, scenes, saved):
        ours = semantic(scenes, predictions(scenes))
        theirs = independent.semantic(
            saved / "truth", saved / "labels", len(NAMES), IGNORE, SEEN_IDS
        )
        ious = theirs.pop("IoU")
        assert 10 < theirs["mIoU"] < 90
        assert len({round(theirs[k]) for k in theirs if k.startswith("mIoU")}) == 4
        assert {k: ours[k] for k in theirs} == pytest.approx(theirs, abs=1e-6)
        assert ours["classes_present"] == len(ious) == len(NAMES) - 1
        for class_id, name in enumerate(NAMES):
            expected = ious.get(class_id, math.nan)
            value = ours[f"IoU-{CATEGORY_IDS[class_id]}:{name}"]
            assert value == pytest.approx(expected, abs=1e-6, nan_ok=True)

    def test_panoptic(self, scenes, saved):
        ours = panoptic(scenes, predictions(scenes))
        metadata = scenes.metadata
        theirs = independent.panoptic(
            metadata.panoptic_json,
            metadata.panoptic_root,
            saved / "panoptic.json",
            saved / "panoptic",
            [CATEGORY_IDS[i] for i in SEEN_IDS],
        )
        assert 10 < theirs["PQ_th"] < 90
        assert 10 < theirs["PQ_st"] < 90
        assert theirs["PQ"] < theirs["mask_PQ"] < 90
        accuracies = [v for k, v in theirs.items() if k.startswith("class_accuracy")]
        assert len(accuracies) == 6
        assert len(set(accuracies)) > 3  # those of things are others
        assert 10 < min(accuracies) < max(accuracies) < 95
        assert ours == pytest.approx(theirs, abs=1e-6)

    def test_instance(self, scenes, saved):
        ours = instance(scenes, predictions(scenes))
        theirs = independent.instance(scenes.metadata.json_file, saved / "instances")
        assert 1 < theirs["AP"] < theirs["AP50"] < 90
        assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True)
        assert math.isnan(ours["APl"])  # no object is larger than 96 × 96

    def test_dominant(self, scenes, saved):
        ours = dominant(scenes, predictions(scenes))
        theirs = independent.dominant(saved / "truth", saved / "dominant.json", IGNORE, SEEN_IDS)
        assert len(set(theirs.values())) == 5
        assert 10 < min(theirs.values()) < max(theirs.values()) < 95
        assert ours.pop("num_dominant") == 4
        assert ours == pytest.approx(theirs, abs=1e-6)


# Detectron2 0.6 copies tensors in a way that numpy 2 asks to change.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
class TestAgainstDetectron2:
    """On a set for which its evaluators work."""

    @pytest.fixture
    def other(self, scenes, saved):
        """The set with label PNGs, and with things numbered 0 to 2."""
        name = f"{scenes.name}_for_detectron2"
        records = [
            {**r, "sem_seg_file_name": f"{saved}/truth/{r['image_id']}.png"} for r in scenes.records
        ]
        DatasetCatalog.register(name, lambda: records)
        ours = scenes.metadata
        things = ours.thing_dataset_id_to_contiguous_id
        MetadataCatalog.get(name).set(
            stuff_classes=ours.stuff_classes,
            ignore_label=ours.ignore_label,
            json_file=ours.json_file,
            thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(things)},
        )
        yield name, records
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)

    def test_semantic(self, scenes, other):
        name, records = other
        outputs = predictions(scenes)

        def load(path, dtype):
            return np.array(Image.open(path), dtype=dtype)

        theirs = evaluate(SemSegEvaluator(name, sem_seg_loading_fn=load), records, outputs)
        ours = semantic(scenes, outputs)
        for key in ("mIoU", "fwIoU", "mACC", "pACC"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-9)
        assert math.isnan(ours["IoU-31:cat"])
        assert ours["IoU-3:cat"] != theirs["IoU-cat"]  # the second cat's number hides the first's

    def test_panoptic(self, scenes, tmp_path):
        outputs = predictions(scenes)
        ours = panoptic(scenes, outputs)
        evaluator = COCOPanopticEvaluator(scenes.name, str(tmp_path))
        theirs = evaluate(evaluator, scenes.records, outputs)
        assert {k: ours[k] for k in theirs} == pytest.approx(theirs, abs=1e-9)

    def test_instance(self, scenes, other):
        name, records = other
        ours = instance(scenes, predictions(scenes))
        outputs = predictions(scenes)
        for output in outputs:
            found = output["instances"]
            # Detectron2 does not leave out detections of stuff.
            found = found[torch.isin(found.pred_classes, torch.tensor(THING_IDS))]
            found.pred_classes = torch.searchsorted(torch.tensor(THING_IDS), found.pred_classes)
            found.pred_boxes = Boxes(torch.zeros(len(found), 4))
            output["instances"] = found
        evaluator = COCOEvaluator(name, tasks=("segm",), use_fast_impl=False)
        # Object ids start at 1 in files that pycocotools reads well.
        content = evaluator._coco_api.dataset
        for annotation in content["annotations"]:
            annotation["id"] += 1
        evaluator._coco_api.createIndex()
        theirs = evaluate(evaluator, records, outputs)
        assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)
