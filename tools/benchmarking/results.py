"""Made-up results of a model for scenes of the toy world, to measure the evaluators."""

import os
import tempfile
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances

from ita.classes import ClassList
from ita.data.reading import load_semantic_label, read_segment_index
from ita.data.registration import class_list_for, register_all
from ita.toy.dataset import make_toy_dataset

DATASET = "toy_val"
# Detections of an image, the number that COCO's metric considers.
DETECTIONS = 100
# Part of the width by which results are shifted, so that they are nearly right.
SHIFT = 0.03

Record = dict[str, Any]


def make_up_results(
    task: str, *, images: int, size: int
) -> tuple[list[Record], list[Record], ClassList, str]:
    """Draw scenes and shift their ground truth.

    Args:
        task: "semantic", "panoptic" or "instance".
        images: number of scenes.
        size: longer side of the images, in pixels.

    Returns:
        Records, the model's output for each, the class list, and the name of the data set.
    """
    folder = tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"])
    os.environ["DETECTRON2_DATASETS"] = folder
    make_toy_dataset(f"{folder}/toy", train=1, val=images, test=1, size=size)
    register_all(["ita/toy/datasets.yaml"])
    records = DatasetCatalog.get(DATASET)
    class_list = class_list_for(DATASET, "")
    make = {"semantic": _semantic, "panoptic": _panoptic, "instance": _instances}[task]
    return records, [make(r, len(class_list)) for r in records], class_list, DATASET


def _semantic(record: Record, classes: int) -> Record:
    label = load_semantic_label(record, MetadataCatalog.get(DATASET))
    label = torch.from_numpy(_shifted(label)).clamp(0, classes - 1)
    scores = torch.rand(classes, *label.shape).scatter_(0, label[None], 2.0)
    # Evaluators of older checkouts read scores.
    return {"label_map": label, "sem_seg": scores}


def _panoptic(record: Record, classes: int) -> Record:
    infos = record["segments_info"]
    ids = 1 + _shifted(read_segment_index(record)).astype(np.int32)
    ids[ids > len(infos)] = 0
    segments = [
        {"id": i, "category_id": info["category_id"], "isthing": True, "query": 0}
        for i, info in enumerate(infos, start=1)
        if (ids == i).any()
    ]
    return {"panoptic_seg": (torch.from_numpy(ids), segments)}


def _instances(record: Record, classes: int) -> Record:
    index = torch.from_numpy(_shifted(read_segment_index(record)).astype(np.int64))
    things = MetadataCatalog.get(DATASET).thing_ids
    infos = record["segments_info"]
    chosen = [i for i, info in enumerate(infos) if info["category_id"] in things]
    detected = torch.tensor(list(islice(cycle(chosen), DETECTIONS)), dtype=torch.int64)
    result = Instances(tuple(index.shape))
    result.pred_masks = index == detected[:, None, None]
    result.scores = torch.linspace(1, 0.1, len(detected))
    result.pred_classes = torch.tensor([infos[i]["category_id"] for i in detected])
    return {"instances": result}


def _shifted(labels: np.ndarray) -> np.ndarray:
    return np.roll(labels, int(SHIFT * labels.shape[1]), axis=1)
