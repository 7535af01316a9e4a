"""Panoptic quality by panopticapi, the benchmark's own code."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from panopticapi.evaluation import PQStat, pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from ita.errors import UserError

# numpy releases the interpreter while it sorts and Pillow while it decodes, so threads do; more
# than this many only wait for each other.
MAX_THREADS = 8


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ over all classes, things and stuff.

    The definition is that of Detectron2's COCOPanopticEvaluator, which hands all predictions to
    one rank, forks a process per core there, names predictions by the image's base name (not
    unique in nested folders), changes the model's output in place, and divides by zero on a data
    set without stuff or without things.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._root = Path(metadata.panoptic_root)
        self._json = Path(metadata.panoptic_json)
        self._category_ids = panoptic_category_ids(metadata)
        self._predictions: list[dict] = []

    def reset(self) -> None:
        """Forget all images."""
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep each image's ``panoptic_seg``: (int map [h, w] with 0 = void, list of segments).

        A segment is {id, category_id} with a contiguous class id, isthing being of no matter.
        """
        for record, output in zip(inputs, outputs, strict=True):
            segment_map, segments = output["panoptic_seg"]
            self._predictions.append(
                {
                    "image_id": record["image_id"],
                    "png": _encode_png(segment_map),
                    "segments_info": [
                        {"id": s["id"], "category_id": self._category_ids[s["category_id"]]}
                        for s in segments
                    ],
                }
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Match the segments of this rank's images, then add up all ranks' counts.

        Returns:
            {"panoptic_seg": PQ, SQ, RQ, PQ_th, …, RQ_st in percent}, NaN where neither truth nor
            predictions have a segment; None on other ranks than 0.

        Raises:
            UserError: a missing or unreadable truth, one of another size than the prediction, or
                images of the panoptic json without a prediction.
        """
        truth = _read_truth(self._json)
        counts = PQStat()
        with TemporaryDirectory(prefix="panoptic_quality_") as folder:
            pairs = [self._pair(p, truth, Path(folder)) for p in self._predictions]
            for part in _count_segments(pairs, self._root, folder, truth["categories"]):
                counts += part
        gathered = comm.gather((counts, [p["image_id"] for p in self._predictions]))
        if not comm.is_main_process():
            return None
        self._check_complete(truth, {i for _, image_ids in gathered for i in image_ids})
        total = PQStat()
        for counts, _ in gathered:
            total += counts
        return {"panoptic_seg": panoptic_metrics(total, truth["categories"])}

    def _pair(self, prediction: dict, truth: dict, folder: Path) -> tuple[dict, dict]:
        """Write a prediction where panopticapi reads it; its truth and its description."""
        annotation = truth["annotations"].get(prediction["image_id"])
        if annotation is None:
            raise UserError(f"image {prediction['image_id']} has no annotation in {self._json}")
        path = folder / f"{len(os.listdir(folder))}.png"
        path.write_bytes(prediction["png"])
        _check_size(self._root / annotation["file_name"], path)
        return annotation, {"file_name": path.name, "segments_info": prediction["segments_info"]}

    def _check_complete(self, truth: dict, predicted: set) -> None:
        missing = [i for i in truth["annotations"] if i not in predicted]
        if missing:
            raise UserError(
                f"{len(missing)} images of {self._json} have no prediction (the first: image "
                f"{missing[0]}); are they among the data set's images?"
            )


def panoptic_category_ids(metadata: Metadata) -> dict[int, int]:
    """Contiguous class id → category id in the panoptic json, for things and stuff."""
    category_ids: dict[int, int] = {}
    # Where both know a class, the instances' json may number it differently: its ids come first
    # and are replaced.
    for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"):
        category_ids.update({v: k for k, v in metadata.get(key, {}).items()})
    return category_ids


def panoptic_metrics(counts: PQStat, categories: dict[int, dict]) -> dict[str, float]:
    """PQ, SQ and RQ in percent, averaged over the categories that occur."""
    metrics = {}
    for suffix, is_thing in (("", None), ("_th", True), ("_st", False)):
        try:
            average, _ = counts.pq_average(categories, isthing=is_thing)
        except ZeroDivisionError:  # no such category occurs
            average = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
        for key in ("pq", "sq", "rq"):
            metrics[key.upper() + suffix] = 100 * float(average[key])
    return metrics


def _encode_png(segment_map: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(id2rgb(segment_map.cpu().numpy())).save(buffer, format="PNG")
    return buffer.getvalue()


def _read_truth(path: Path) -> dict[str, dict]:
    """Categories by id and annotations by image id, of a COCO panoptic json."""
    try:
        content = json.loads(path.read_text())
        return {
            "categories": {c["id"]: c for c in content["categories"]},
            "annotations": {a["image_id"]: a for a in content["annotations"]},
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read panoptic json {path}: {error}") from error


def _check_size(truth: Path, prediction: Path) -> None:
    sizes = []
    for path in (truth, prediction):
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except OSError as error:
            raise UserError(f"cannot read panoptic truth {path}: {error}") from error
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{truth} is {sizes[0][0]} × {sizes[0][1]} (width × height) but the prediction is "
            f"{sizes[1][0]} × {sizes[1][1]}"
        )


def _count_segments(
    pairs: list[tuple[dict, dict]], root: Path, folder: str, categories: dict[int, dict]
) -> list[PQStat]:
    """Matched, missed and false segments of (truth, prediction) pairs, a part per thread."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    parts = [pairs[i::threads] for i in range(threads)]

    def count(part: list[tuple[dict, dict]]) -> PQStat:
        return pq_compute_single_core(0, part, str(root), folder, categories)

    with ExitStack() as stack:
        # panopticapi prints its progress, and a traceback before it raises.
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        try:
            return list(pool.map(count, parts))
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"panoptic quality with truth in {root}: {error}") from error
