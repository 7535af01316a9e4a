"""Segmentation metrics from files on disk, written from their published definitions.

Imports neither ita, Detectron2, panopticapi nor pycocotools, so that an error there shows.

    python tests/evaluation/independent.py semantic TRUTH_DIR PREDICTION_DIR CLASSES IGNORE SEEN
    python tests/evaluation/independent.py panoptic TRUTH_JSON TRUTH_DIR PRED_JSON PRED_DIR SEEN
    python tests/evaluation/independent.py instance TRUTH_JSON PREDICTION_DIR
    python tests/evaluation/independent.py dominant TRUTH_DIR DOMINANT_JSON IGNORE SEEN

SEEN lists the ids (in panoptic the category ids) of the classes that training saw: 0,2,4
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def semantic(truth_dir, prediction_dir, classes, ignore, seen):
    """mIoU, fwIoU, mACC, pACC (Long et al., CVPR 2015) and IoU per class from label PNGs.

    mIoU also over seen and unseen classes, with the harmonic mean of these two (Xian et al., CVPR
    2019, section 3).
    """
    intersection, true_area, predicted_area = (np.zeros(classes) for _ in range(3))
    for path in sorted(Path(truth_dir).glob("*.png")):
        truth = np.array(Image.open(path)).astype(int)
        prediction = np.array(Image.open(Path(prediction_dir) / path.name)).astype(int)
        valid = truth != ignore
        for c in range(classes):
            is_true, is_predicted = (truth == c) & valid, (prediction == c) & valid
            intersection[c] += (is_true & is_predicted).sum()
            true_area[c] += is_true.sum()
            predicted_area[c] += is_predicted.sum()
    present = np.flatnonzero(true_area)
    iou = {
        c: intersection[c] / (true_area[c] + predicted_area[c] - intersection[c]) for c in present
    }
    total = true_area.sum()
    of_seen = [iou[c] for c in present if c in seen]
    of_unseen = [iou[c] for c in present if c not in seen]
    means = [100 * sum(side) / len(side) for side in (of_seen, of_unseen)]
    return {
        "mIoU": 100 * sum(iou.values()) / len(present),
        "mIoU_seen": means[0],
        "mIoU_unseen": means[1],
        "mIoU_harmonic": 2 / (1 / means[0] + 1 / means[1]),
        "fwIoU": 100 * sum(true_area[c] / total * iou[c] for c in present),
        "mACC": 100 * sum(intersection[c] / true_area[c] for c in present) / len(present),
        "pACC": 100 * intersection.sum() / total,
        "IoU": {int(c): 100 * iou[c] for c in present},
    }


def panoptic(truth_json, truth_dir, prediction_json, prediction_dir, seen):
    """PQ, SQ, RQ (Kirillov et al., CVPR 2019, section 4) over all classes, things and stuff.

    Also PQ where all segments count as of one class, and how often the segments found so are of the
    right class.
    """
    truth, prediction = (json.loads(Path(p).read_text()) for p in (truth_json, prediction_json))
    predicted = {a["image_id"]: a for a in prediction["annotations"]}
    tallies = {c["id"]: {"iou": [], "fp": 0, "fn": 0} for c in truth["categories"]}
    one_class, pairs = {"any": {"iou": [], "fp": 0, "fn": 0}}, []
    for annotation in truth["annotations"]:
        other = predicted[annotation["image_id"]]
        true_ids = _segment_ids(Path(truth_dir) / annotation["file_name"])
        predicted_ids = _segment_ids(Path(prediction_dir) / other["file_name"])
        true_segments, predicted_segments = annotation["segments_info"], other["segments_info"]
        _match_image(tallies, true_ids, true_segments, predicted_ids, predicted_segments)
        found = _match_image(
            one_class,
            true_ids,
            [{**s, "category_id": "any"} for s in true_segments],
            predicted_ids,
            [{**s, "category_id": "any"} for s in predicted_segments],
        )
        true_class = {s["id"]: s["category_id"] for s in true_segments}
        predicted_class = {s["id"]: s["category_id"] for s in predicted_segments}
        pairs += [(true_class[t], predicted_class[p]) for t, p in found.items()]
    things = {c["id"] for c in truth["categories"] if c["isthing"]}
    result = {}
    for suffix, ids in (("", set(tallies)), ("_th", things), ("_st", set(tallies) - things)):
        result |= {k + suffix: v for k, v in _average([tallies[i] for i in ids]).items()}
    result["mask_PQ"] = _average(one_class.values())["PQ"]
    for suffix, of_side in (("", pairs), ("_th", [pair for pair in pairs if pair[0] in things])):
        rights = [(t in seen, t == p) for t, p in of_side]
        result |= _pooled(f"class_accuracy{suffix}", rights)
    return result


def _pooled(name, rights):
    """Percentage of what is right, given (is seen, is right) of everything that counts."""
    return {
        name: 100 * float(np.mean([right for _, right in rights])),
        f"{name}_seen": 100 * float(np.mean([right for is_seen, right in rights if is_seen])),
        f"{name}_unseen": 100 * float(np.mean([right for is_seen, right in rights if not is_seen])),
    }


def dominant(truth_dir, dominant_json, ignore, seen):
    """How many of the classes in label PNGs are among those said of each image.

    And what text queries segment. The json has of each image, by stem, ``classes``, ``segments``:
    ids, and pairs of a query and a class.
    """
    said = json.loads(Path(dominant_json).read_text())
    rights = []
    for path in sorted(Path(truth_dir).glob("*.png")):
        for class_id in set(np.array(Image.open(path)).ravel().tolist()) - {ignore}:
            rights.append((class_id in seen, class_id in said[path.stem]["classes"]))
    everything, of_text = 0, []
    for image in said.values():
        everything += len(image["segments"])
        own = dict(enumerate(image["classes"]))
        of_text += [own[query] == class_id for query, class_id in image["segments"] if query in own]
    return {
        **_pooled("hit_rate", rights),
        "text_query_segments": 100 * len(of_text) / everything,
        "text_query_own_class": 100 * float(np.mean(of_text)),
    }


def _segment_ids(path):
    rgb = np.array(Image.open(path).convert("RGB")).astype(np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def _match_image(tallies, true_ids, true_segments, predicted_ids, predicted_segments):
    """Add one image to the tallies of its categories; give the pairs of ids that match."""
    void = true_ids == 0
    found = {}
    for t in true_segments:
        for p in predicted_segments:
            if t["iscrowd"] or t["category_id"] != p["category_id"]:
                continue
            in_truth, in_prediction = true_ids == t["id"], predicted_ids == p["id"]
            # Void pixels of the truth are taken out of the prediction (section 4.2).
            union = (in_truth | (in_prediction & ~void)).sum()
            iou = (in_truth & in_prediction).sum() / union
            if iou > 0.5:
                tallies[t["category_id"]]["iou"].append(iou)
                found[t["id"]] = p["id"]
    for t in true_segments:
        tallies[t["category_id"]]["fn"] += not t["iscrowd"] and t["id"] not in found
    for p in predicted_segments:
        region = predicted_ids == p["id"]
        excused = void.copy()
        for t in true_segments:
            if t["iscrowd"] and t["category_id"] == p["category_id"]:
                excused |= true_ids == t["id"]
        if p["id"] not in found.values() and (region & excused).sum() <= 0.5 * region.sum():
            tallies[p["category_id"]]["fp"] += 1
    return found


def _average(tallies):
    rows = []
    for tally in tallies:
        tp, fp, fn = len(tally["iou"]), tally["fp"], tally["fn"]
        if tp + fp + fn:
            sq = sum(tally["iou"]) / tp if tp else 0.0
            rq = tp / (tp + fp / 2 + fn / 2)
            rows.append((sq * rq, sq, rq))
    means = 100 * np.mean(rows, axis=0) if rows else [float("nan")] * 3
    return dict(zip(("PQ", "SQ", "RQ"), map(float, means), strict=True))


AREAS = {
    "": (0, float("inf")),
    "s": (0, 32**2),
    "m": (32**2, 96**2),
    "l": (96**2, float("inf")),
}
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def instance(truth_json, prediction_dir):
    """Mask AP as at cocodataset.org/#detection-eval, 100 detections per image and category.

    Predictions: per image a file ``{image_id}.npz`` with masks [n, h, w], scores [n] and
    category_ids [n].
    """
    truth = json.loads(Path(truth_json).read_text())
    objects = {i["id"]: [] for i in truth["images"]}
    for annotation in truth["annotations"]:
        objects[annotation["image_id"]].append({**annotation, "mask": _decode(annotation)})
    detections = {i: dict(np.load(Path(prediction_dir) / f"{i}.npz")) for i in objects}
    result = {}
    for suffix, area in AREAS.items():
        table = [
            _average_precision(c["id"], area, objects, detections) for c in truth["categories"]
        ]
        table = np.array([row for row in table if row is not None]).reshape(-1, len(THRESHOLDS))
        result[f"AP{suffix}"] = 100 * float(table.mean()) if table.size else float("nan")
        if not suffix:
            for column, name in ((0, "AP50"), (5, "AP75")):
                values = table[:, column]
                result[name] = 100 * float(values.mean()) if values.size else float("nan")
    return result


def _decode(annotation):
    """Mask from uncompressed RLE: runs of zeros and ones in turn, down the columns."""
    height, width = annotation["segmentation"]["size"]
    runs = annotation["segmentation"]["counts"]
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    return flat.reshape(width, height).T.astype(bool)


def _average_precision(category, area, objects, detections):
    """AP at each threshold, or None if the category has no object of that area."""
    outcomes, positives = [], 0
    for image_id in sorted(objects):
        mine = [o for o in objects[image_id] if o["category_id"] == category]
        ignored = [o["iscrowd"] or not area[0] <= o["area"] <= area[1] for o in mine]
        positives += len(mine) - sum(ignored)
        found = detections[image_id]
        chosen = np.flatnonzero(found["category_ids"] == category)
        chosen = chosen[np.argsort(-found["scores"][chosen], kind="stable")][:100]
        masks = found["masks"][chosen].astype(bool)
        verdicts = [_judge(t, masks, mine, ignored, area) for t in THRESHOLDS]
        outcomes += zip(found["scores"][chosen], *verdicts, strict=True)
    if not positives:
        return None
    outcomes.sort(key=lambda outcome: -outcome[0])
    return [_interpolated([o[1 + t] for o in outcomes], positives) for t in range(len(THRESHOLDS))]


def _judge(threshold, masks, objects, ignored, area):
    """Say for each mask, best score first: True (found), False (false), None (not counted)."""
    taken, verdicts = set(), []
    for mask in masks:
        best = {False: (threshold, None), True: (threshold, None)}
        for number, candidate in enumerate(objects):
            if number in taken and not candidate["iscrowd"]:
                continue
            overlap = (mask & candidate["mask"]).sum()
            whole = mask.sum() if candidate["iscrowd"] else (mask | candidate["mask"]).sum()
            iou, kind = overlap / whole, bool(ignored[number])
            if iou >= best[kind][0]:
                best[kind] = (iou, number)
        match = best[False][1] if best[False][1] is not None else best[True][1]
        if match is None:
            verdicts.append(False if area[0] <= mask.sum() <= area[1] else None)
            continue
        taken.add(match)
        verdicts.append(None if ignored[match] else True)
    return verdicts


def _interpolated(verdicts, positives):
    """Mean over recalls 0, 0.01, …, 1 of the best precision at that recall or above."""
    counted = [v for v in verdicts if v is not None]
    hits = np.cumsum(np.array(counted, dtype=int))
    recall = hits / positives
    precision = hits / np.arange(1, len(hits) + 1)
    total = 0.0
    for wanted in np.linspace(0, 1, 101):
        reached = precision[recall >= wanted]
        total += reached.max() if reached.size else 0.0
    return total / 101


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    if task != "instance":
        arguments[-1] = [int(c) for c in arguments[-1].split(",")]
    if task in ("semantic", "dominant"):
        arguments[2:-1] = map(int, arguments[2:-1])
    metrics = {"semantic": semantic, "panoptic": panoptic, "instance": instance}
    metric = {**metrics, "dominant": dominant}[task]
    print(json.dumps(metric(*arguments), indent=2))
