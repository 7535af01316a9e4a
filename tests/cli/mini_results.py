"""Benchmarks in miniature and a tiny model, with results from an independent script.

Label maps come from the Python interface, and ``tests/evaluation/independent.py`` computes the mIoU
from PNGs.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ita
from ita.classes import read_class_list
from ita.config import load_config
from ita.meta_arch import build_model
from tests.data import mini_sets
from tests.engine.tiny import REPOSITORY, overrides
from tests.evaluation import independent

CONFIGS = REPOSITORY / "configs" / "coco" / "semantic-segmentation"
FCCLIP = CONFIGS / "fcclip" / "fcclip_convnext_large_eval_ade20k.yaml"
# Family -> writer, class list, void value, image folder.
SETS = {
    "ade20k": (mini_sets.ade150, "ade150", 255, "ADEChallengeData2016/images/validation"),
    "a847": (mini_sets.ade847, "ade847", 65535, "ADE20K_2021_17_01/images_detectron2/validation"),
    "pc59": (mini_sets.context59, "pc59", 255, "pascal_ctx_d2/images/validation"),
    "pc459": (mini_sets.context459, "pc459", 65535, "pascal_ctx_d2/images/validation"),
    "pas20": (mini_sets.voc20, "pas20", 255, "pascal_voc_d2/images/validation"),
    "pas21": (mini_sets.voc21, "pas21", 255, "pascal_voc_d2/images/validation"),
}


@dataclasses.dataclass(frozen=True)
class MiniResults:
    """Where everything is.

    Attributes:
        data: root of the data sets.
        weights: checkpoint without a class list, as FC-CLIP's are.
        words: overrides that make the config's model tiny.
        mious: family -> mIoU of the independent script.
    """

    data: Path
    weights: Path
    words: list[str]
    mious: dict[str, float]

    def publish(self, path: Path, **changes: float) -> Path:
        """Write a table in which the independent results, plus changes, are the published ones."""
        results = {
            family: {"mIoU": miou + changes.get(family, 0), "class_list": SETS[family][1]}
            for family, miou in self.mious.items()
        }
        model = {
            "title": "Tiny",
            "config": str(FCCLIP),
            "training_class_list": "coco133",
            "results": {family: {**result, "images": 2} for family, result in results.items()},
        }
        path.write_text(yaml.safe_dump({"models": {"tiny": model}}))
        return path


def make(folder: Path) -> MiniResults:
    """Write the data sets and the checkpoint, and compute the results."""
    words = overrides(
        MODEL__DEVICE="cpu",
        MODEL__MASK_FORMER__NHEADS=4,
        MODEL__ITA__NUM_DOMINANT=0,
        MODEL__MASK_FORMER__NUM_OBJECT_QUERIES=40,
        INPUT__MAX_SIZE_TEST=256,
    )
    torch.manual_seed(0)
    model = build_model(load_config(FCCLIP, words))
    frozen = model.frozen_state_keys()
    # Sharp masks, so that label maps have several classes and depend on the order of resizing.
    sharp = re.compile("query_feature|mask_embed|mask_features")
    state = {
        name: 10 * tensor if sharp.search(name) else tensor
        for name, tensor in model.state_dict().items()
        if name not in frozen
    }
    torch.save({"model": state}, folder / "tiny.pth")
    data, maps = folder / "data", {}
    for family, (write, *_) in SETS.items():
        stems = list(write(data))
        maps[family] = label_maps(family, words, folder / "tiny.pth", data, stems)
    mious = {}
    with pytest.MonkeyPatch.context() as patch:
        for family, (write, class_list, void, _) in SETS.items():
            patch.setattr(mini_sets, "blocks", shifted(list(maps[family].values())))
            truth = write(data)
            for name, images in (("truth", truth), ("prediction", maps[family])):
                for stem, labels in images.items():
                    mini_sets.save(labels.astype(np.uint16), folder / family / name / f"{stem}.png")
            classes = len(read_class_list(class_list))
            folders = (folder / family / "truth", folder / family / "prediction")
            # Its harmonic mean may divide by a mean of zero.
            with np.errstate(divide="ignore"):
                results = independent.semantic(*folders, classes, void, [classes - 1])
            mious[family] = float(results["mIoU"])
    return MiniResults(data, folder / "tiny.pth", words, mious)


def label_maps(family, words, weights, data, stems):
    """Stem -> label map, with the data set's own config."""
    config = CONFIGS / "ita" / f"ita_convnext_large_eval_{family}.yaml"
    own = [*words, "MODEL.ITA.SELF_ATTENTION", "True"]
    # Panoptic results, which the Python interface leaves out, imply this order of resizing.
    own += ["MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", family == "ade20k"]
    options = {"overrides": list(map(str, own)), "precision": "float32"}  # as evaluations
    predictor = ita.load(config, weights, **options)
    classes, images = read_class_list(SETS[family][1]), data / SETS[family][3]
    return {stem: predictor.segment(images / f"{stem}.jpg", classes).label_map for stem in stems}


def shifted(maps):
    """A maker of labels that are a model's own, shifted, besides a void and a missed corner."""

    def make_labels(classes, void, seed):
        labels = np.roll(maps[seed], 6, axis=1)
        labels[:4, :4] = void
        labels[-4:, -4:] = classes - 1
        return labels

    return make_labels
