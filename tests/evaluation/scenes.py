"""A small random data set in COCO's formats, and random but sensible predictions for it.

Things and stuff are interleaved, category ids have gaps, a class never occurs, and there are void
regions, crowd segments, an image without a label and images without objects or detections.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from panopticapi.utils import id2rgb
from PIL import Image

from ita.classes import ClassList
from ita.data.registration import register_panoptic

CATEGORY_IDS = (3, 7, 12, 20, 31, 44)
# First names may repeat.
NAMES = ("cat", "sky", "dog", "grass", "cat", "bus")
SYNONYMS = ("kitten", "heaven", "puppy", "lawn", "lion", "coach")
# A training vocabulary that shares the name of two classes and a synonym of two others.
TRAINING = ClassList.from_strings("training", ["cat", "puppy, hound", "SKY, lawn"])
SEEN = (True, False, True, True, True, False)
THING_IDS = (0, 2, 5)
ABSENT = 4
IGNORE = 255
NUM_IMAGES = 7


@dataclass
class Scenes:
    name: str
    records: list[dict]

    @property
    def metadata(self):
        return MetadataCatalog.get(self.name)

    @property
    def class_list(self):
        return self.metadata.class_list


def write_scenes(folder, seed=0):
    """Write images, panoptic PNGs and json, instances json and a class list."""
    random = np.random.default_rng(seed)
    for part in ("images", "panoptic"):
        (folder / part).mkdir(parents=True)
    images, annotations, objects = [], [], []
    for number in range(NUM_IMAGES):
        image_id, size = 100 + 3 * number, (78 + 5 * number, 101 - 4 * number)
        ids, segments = _draw_scene(random, number, size)
        stem = f"scene_{image_id}"
        noise = random.integers(0, 30, (*size, 3))
        color = np.stack([ids * 31 % 200, ids * 57 % 200, ids * 11 % 200], axis=-1)
        Image.fromarray((color + noise).astype(np.uint8)).save(folder / f"images/{stem}.png")
        Image.fromarray(id2rgb(ids)).save(folder / f"panoptic/{stem}.png")
        height, width = size
        image = {"id": image_id, "file_name": f"{stem}.png", "height": height, "width": width}
        images.append(image)
        annotations.append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
        )
        objects += [
            _object(len(objects) + i, image_id, s, ids == s["id"])
            for i, s in enumerate(s for s in segments if _class(s) in THING_IDS)
        ]
    categories = [
        {"id": c, "name": n, "isthing": int(i in THING_IDS)}
        for i, (c, n) in enumerate(zip(CATEGORY_IDS, NAMES, strict=True))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))
    lines = [f"{c}: {n}, {s}" for c, n, s in zip(CATEGORY_IDS, NAMES, SYNONYMS, strict=True)]
    (folder / "classes.txt").write_text("\n".join(lines))
    things = [c for c in categories if c["isthing"]]
    content = {"images": images, "annotations": objects, "categories": things}
    (folder / "instances.json").write_text(json.dumps(content))


def _class(segment):
    return CATEGORY_IDS.index(segment["category_id"])


def _draw_scene(random, number, size):
    """Segment ids int32 [h, w] with 0 void, and their descriptions."""
    ids, segments = np.zeros(size, dtype=np.int32), {}
    if number == 3:  # nothing is labelled
        return ids, []
    rows, columns = np.mgrid[: size[0], : size[1]]
    ids[rows < size[0] // 2] = 1000
    ids[rows > size[0] // 2 + 4] = 70000
    segments[1000] = {"category_id": CATEGORY_IDS[1], "iscrowd": 0}
    segments[70000] = {"category_id": CATEGORY_IDS[3], "iscrowd": 0}
    for thing in range(0 if number == 5 else 6):
        segment_id = 300 + 257 * thing
        center, radius = random.integers(5, 70, 2), random.integers(5, 30, 2)
        inside = ((np.stack([rows, columns], -1) - center) / radius) ** 2
        ids[inside.sum(-1) < 1] = segment_id
        category = CATEGORY_IDS[random.choice(THING_IDS)]
        segments[segment_id] = {"category_id": category, "iscrowd": int(thing == 1)}
    areas = dict(zip(*np.unique(ids, return_counts=True), strict=True))
    infos = [{"id": i, "area": int(areas[i]), **s} for i, s in segments.items() if i in areas]
    return ids, infos


def _object(object_id, image_id, segment, mask):
    """A COCO annotation; the first of the set has id 0."""
    flat = np.concatenate([[0], mask.T.ravel(), [2]])
    changes = np.flatnonzero(np.diff(flat.astype(int)))
    runs = np.diff(np.concatenate([[0], changes])).tolist()
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    return {
        "id": object_id,
        "image_id": image_id,
        "category_id": segment["category_id"],
        "iscrowd": segment["iscrowd"],
        "area": segment["area"],
        "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        "segmentation": {"size": list(mask.shape), "counts": runs},
    }


@contextlib.contextmanager
def registered(folder, name):
    """Register what ``write_scenes`` wrote; forgotten at the end."""
    folder = Path(folder)
    register_panoptic(
        name,
        folder / "images",
        folder / "panoptic",
        folder / "panoptic.json",
        folder / "classes.txt",
        things=THING_IDS,
        instances_json=folder / "instances.json",
        ignore_label=IGNORE,
    )
    try:
        yield Scenes(name, DatasetCatalog.get(name))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def true_ids(record):
    """Segment ids int32 [h, w] of a record's truth."""
    rgb = np.array(Image.open(record["pan_seg_file_name"])).astype(np.int32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def perfect_prediction(record):
    """The truth as a model's output; a crowd is predicted like an object."""
    ids = true_ids(record)
    segments = record["segments_info"]
    classes = np.full(ids.shape, ABSENT)
    for segment in segments:
        classes[ids == segment["id"]] = segment["category_id"]
    things = [s for s in segments if s["category_id"] in THING_IDS]
    masks = [ids == s["id"] for s in things]
    return _output(
        classes,
        ids,
        [_segment_info(s["id"], s["category_id"], query) for query, s in enumerate(segments)],
        masks,
        np.linspace(0.9, 0.5, len(masks)),
        [s["category_id"] for s in things],
        [s["category_id"] for s in segments],
    )


def random_prediction(record):
    """The truth shifted, with wrong classes, missing and invented segments and objects."""
    random = np.random.default_rng(record["image_id"])
    shift = random.integers(-3, 4, 2)
    ids = np.roll(true_ids(record), shift, axis=(0, 1))
    if record["image_id"] == 112:  # predictions of one class only
        return _output(np.zeros(ids.shape, int), np.zeros_like(ids), [], [], [], [], [])
    classes = random.integers(0, len(NAMES), ids.shape)
    infos, masks, scores, kinds = [], [], [], []
    for segment in record["segments_info"]:
        region = ids == segment["id"]
        category = segment["category_id"]
        if random.random() < 0.25:
            category = int(random.integers(0, len(NAMES)))
        classes[region & (random.random(ids.shape) < 0.9)] = category
        if random.random() < 0.15:
            ids[region] = 0
        elif region.any():
            infos.append(_segment_info(segment["id"], category, int(random.integers(0, 6))))
        for _ in range(random.integers(1, 4)):
            masks.append(np.roll(region, random.integers(-4, 5, 2), axis=(0, 1)))
            # Two decimals, so that scores tie.
            scores.append(round(random.random(), 2))
            kinds.append(category)
    ids[:4, :4] = 5  # over void and others
    infos.append(_segment_info(5, ABSENT))
    infos = [s for s in infos if (ids == s["id"]).any()]
    if record["image_id"] == 100:  # more detections of a class than count
        for corner in range(130):
            mask = np.zeros(ids.shape, dtype=bool)
            mask[corner % 40 : corner % 40 + 9, corner // 4 : corner // 4 + 9] = True
            masks.append(mask)
            scores.append(round(random.random(), 3))
            kinds.append(0)
    dominant = random.permutation([-1, *range(len(NAMES)), 0])[:4]
    return _output(classes, ids, infos, masks, scores, kinds, dominant)


def _segment_info(segment_id, category_id, query=0):
    is_thing = category_id in THING_IDS
    return {"id": segment_id, "isthing": is_thing, "category_id": category_id, "query": query}


def _output(classes, ids, segments, masks, scores, kinds, dominant):
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *ids.shape).astype(bool))
    instances.scores = torch.tensor(np.array(scores), dtype=torch.float32)
    instances.pred_classes = torch.tensor(np.array(kinds), dtype=torch.int64)
    labels = torch.from_numpy(classes)
    one_hot = torch.nn.functional.one_hot(labels, len(NAMES))
    return {
        "label_map": labels,
        "sem_seg": one_hot.permute(2, 0, 1) - 0.5,
        "panoptic_seg": (torch.from_numpy(ids.astype(np.int32)), segments),
        "instances": instances,
        "dominant_classes": torch.tensor(np.array(dominant, dtype=np.int64)),
    }


def save_predictions(folder, records, outputs):
    """Write labels, truth labels and predictions as tests/evaluation/independent.py reads them."""
    for part in ("truth", "labels", "panoptic", "instances"):
        (folder / part).mkdir(parents=True)
    annotations, dominant = [], {}
    for record, output in zip(records, outputs, strict=True):
        stem = str(record["image_id"])
        truth = np.full(true_ids(record).shape, IGNORE)
        for segment in record["segments_info"]:
            truth[true_ids(record) == segment["id"]] = segment["category_id"]
        labels = output["label_map"].numpy()
        ids, segments = output["panoptic_seg"]
        Image.fromarray(truth.astype(np.uint8)).save(folder / f"truth/{stem}.png")
        Image.fromarray(labels.astype(np.uint8)).save(folder / f"labels/{stem}.png")
        Image.fromarray(id2rgb(ids.numpy())).save(folder / f"panoptic/{stem}.png")
        annotations.append(
            {
                "image_id": record["image_id"],
                "file_name": f"{stem}.png",
                "segments_info": [
                    {"id": s["id"], "category_id": CATEGORY_IDS[s["category_id"]]} for s in segments
                ],
            }
        )
        instances = output["instances"]
        np.savez(
            folder / f"instances/{stem}.npz",
            masks=instances.pred_masks.numpy(),
            scores=instances.scores.numpy(),
            category_ids=np.array(CATEGORY_IDS)[instances.pred_classes.numpy()],
        )
        dominant[stem] = {
            "classes": output["dominant_classes"].tolist(),
            "segments": [(s["query"], s["category_id"]) for s in segments],
        }
    (folder / "panoptic.json").write_text(json.dumps({"annotations": annotations}))
    (folder / "dominant.json").write_text(json.dumps(dominant))
