"""Every reader of files of others, with damaged files: they are read, or refused in one line."""

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

import ita
from ita.classes import ClassList, choose_classes, read_class_list
from ita.config import load_config
from ita.data.reading import read_image, read_label_values, read_segments
from ita.data.records import load_panoptic_records
from ita.data.registration import register_custom
from ita.engine import checkpoint
from ita.engine.finished import FINISHED, changes, read_finished
from ita.engine.recovery import find_resumable
from ita.errors import UserError
from ita.evaluation import instance, panoptic
from ita.files import PACKAGE
from ita.modeling.clip_weights import build_clip
from ita.modeling.dominant import load_name_table
from ita.modeling.text_cache import FeatureCache
from ita.reports.curves import read_curves
from ita.reports.published import read_table
from ita.reports.run_comparison import compare
from ita.runtime.export_files import TextInputs, read_vocabulary, write_vocabulary
from ita.toy.clip_training.card import read_training
from tests.damage import as_json, as_yaml, damaged, with_odd_values
from tests.data.mini import MiniPanoptic, random_image

CLIP = PACKAGE / "toy" / "clip"
CLIP_CONFIG, CLIP_WEIGHTS = CLIP / "open_clip_config.json", CLIP / "open_clip_model.safetensors"
MODEL = PACKAGE / "toy" / "model"
PANOPTIC = {
    "images": [{"id": 0, "file_name": "000.png", "height": 12, "width": 16}],
    "annotations": [
        {
            "image_id": 0,
            "file_name": "000.png",
            "segments_info": [
                {"id": 1, "category_id": 1, "iscrowd": 0},
                {"id": 300, "category_id": 7, "iscrowd": 0},
            ],
        }
    ],
    "categories": [{"id": 1, "name": "person", "isthing": 1}, {"id": 7, "isthing": 0}],
}
INSTANCES = {
    "images": [{"id": 1, "height": 12, "width": 16, "file_name": "000.png"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "bbox": [0, 0, 4, 4],
            "area": 16,
            "segmentation": [[0, 0, 4, 0, 4, 4]],
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 3, "name": "dog"}],
}
CONFIG = {"DATASETS": {"TRAIN": ["toy_train"]}, "SOLVER": {"STEPS": [2, 3], "BASE_LR": 0.1}}
RESULTS = {
    "date": "2026-01-01",
    "run": {"iteration": 3, FINISHED: {"dependencies": {"code": "1"}, "seconds": 1.0}},
    "results": {"toy_val": {"sem_seg": {"mIoU": 50.0, "IoU-cat": 4.0}, "info": {"images": 3}}},
}
CUSTOM = {
    "damaged": {
        "class_list": "classes.txt",
        "image_root": "images",
        "panoptic_root": "panoptic",
        "panoptic_json": "panoptic.json",
        "things": ["dog"],
        "label_root": "panoptic",
        "ignored_values": [0, 255],
        "test_size": [64, 128],
    }
}


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the file.
        make: makes the content of a file without damage: bytes, or the values of JSON or YAML.
        read: reads a file.
        count: number of damages.
    """

    name: str
    make: Callable[[], Any]
    read: Callable[[Path], Any]
    count: int = 40

    def variants(self):
        """The content, then damaged ones."""
        content = self.make()
        dump = as_json if self.name.endswith(".json") else as_yaml
        whole = content if isinstance(content, bytes) else dump(content)
        yield whole
        yield from damaged(whole, self.count)
        if not isinstance(content, bytes):
            yield from map(dump, with_odd_values(content, 2 * self.count))
            yield from (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000)


def encoded(kind, mode="RGB"):
    """Content of an image file."""
    pixels = random_image(12, 16)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 100)
    else:
        image = Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def panoptic_png():
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[..., 0] = 1
    pixels[6:] = (300 % 256, 300 // 256, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def read_custom_set(path):
    before = set(DatasetCatalog.list())
    try:
        for row in register_custom([path]):
            DatasetCatalog.get(row.name)
    finally:
        for name in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(name)


def read_records(path):
    root = path.parent
    categories = {1: 0, 3: 1, 7: 2, 9: 3}
    return load_panoptic_records(path, root / "images", root / "panoptic", categories, (0, 1))


def read_panoptic_png(path):
    record = {"pan_seg_file_name": str(path), "segments_info": [{"id": 1}, {"id": 300}]}
    return read_segments(record, np.array([0, 1, 255]))


def read_and_load_checkpoint(path):
    content = checkpoint.read_checkpoint(path)
    checkpoint.trained_class_list(content, str(path))
    checkpoint.load_weights(ita.load().model, content["model"], str(path))


def read_stored_results(path):
    """Results of a finished data set; what is damaged is evaluated again."""
    if stored := read_finished(path.parent):
        changes(stored, {"code": "2"})


def read_cached_features(path):
    """No error at all: features that cannot be read are computed."""
    folder = path.parent / "cache"
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / "ab-0.safetensors")
    try:
        FeatureCache(folder).load("ab", ["cat", "dog"])
    except UserError as error:
        raise AssertionError("the cache raised an error") from error


def read_last_checkpoint(path):
    """The newest intact checkpoint is used where the file is damaged."""
    assert find_resumable(path.parent)


def read_model_folder(path):
    for file in MODEL.iterdir():
        if file.name != path.name and not (path.parent / file.name).exists():
            shutil.copy(file, path.parent)
    ita.load(path.parent, device="cpu")


def read_toy_clip(path):
    for file in CLIP.iterdir():
        if file.name != path.name:
            shutil.copy(file, path.parent)
    read_training(path.parent)


def read_classes(path):
    choose_classes(str(path))


def read_any_image(path):
    read_image(str(path))


def read_label_map(path):
    read_label_values(str(path))


def read_clip_config(path):
    build_clip(str(path), "random")


def read_clip_weights(path):
    build_clip(str(CLIP_CONFIG), str(path))


def read_names(path):
    load_name_table(path, 8)


def read_results_file(path):
    compare([path])


def read_config(path):
    load_config(path, (), lambda line: None)


def from_json(path):
    return json.loads(path.read_text("utf-8"))


def published_results():
    content = yaml.safe_load((PACKAGE / "reports" / "published.yaml").read_text("utf-8"))
    return {**content, "models": dict(list(content["models"].items())[:1])}


def model_config():
    content = yaml.safe_load((MODEL / "config.yaml").read_text("utf-8"))
    return {**content, "_BASE_": str((MODEL / content["_BASE_"]).resolve())}


def toy_checkpoint(tensors=None, **options):
    weights = safetensors.torch.load_file(MODEL / "model.safetensors")
    model = dict(list(weights.items())[:tensors])
    return saved({"model": model, "iteration": 1, "trainer": {}}, **options)


def cached_features():
    with tempfile.TemporaryDirectory() as folder:
        FeatureCache(Path(folder)).store("ab", ["cat", "dog"], torch.rand(2, 4))
        (path,) = Path(folder).iterdir()
        return path.read_bytes()


def exported_vocabulary():
    text = TextInputs(ClassList.from_strings("x", ["cat", "dog"]), {"text": np.ones((2, 4))})
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(text, path := Path(folder, "a.npz"))
        return path.read_bytes()


def scalars():
    return b"".join(as_json({"iteration": i, "total_loss": 1.5}) + b"\n" for i in range(3))


KINDS = {
    "class list": Kind(
        "a.txt", lambda: b"0: cat, kitten\n1: dog\n7: caf\xc3\xa9\n", read_class_list
    ),
    "classes": Kind("a.txt", lambda: b"cat, kitten\ndog\n", read_classes),
    "custom set": Kind("sets.yaml", lambda: CUSTOM, read_custom_set),
    "panoptic json": Kind("panoptic.json", lambda: PANOPTIC, read_records),
    "panoptic truth": Kind("p.json", lambda: PANOPTIC, panoptic._read_annotations),
    "instances": Kind("i.json", lambda: INSTANCES, instance._read_ground_truth),
    **{
        f"{kind} image, {mode}": Kind("image", partial(encoded, kind, mode), read_any_image)
        for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
        for mode in ("RGB", "L")
    },
    "label map": Kind("l.png", partial(encoded, "PNG", "L"), read_label_map),
    "label map of 16 bits": Kind("l.png", partial(encoded, "PNG", "I;16"), read_label_map),
    "panoptic PNG": Kind("p.png", panoptic_png, read_panoptic_png),
    "checkpoint": Kind("a.pth", toy_checkpoint, read_and_load_checkpoint, 10),
    "old checkpoint": Kind(
        "a.pth",
        partial(toy_checkpoint, 3, _use_new_zipfile_serialization=False),
        read_and_load_checkpoint,
    ),
    "safetensors": Kind(
        "a.safetensors", (MODEL / "model.safetensors").read_bytes, read_and_load_checkpoint, 10
    ),
    "last_checkpoint": Kind("last_checkpoint", lambda: b"model_0000001.pth", read_last_checkpoint),
    "CLIP config": Kind("c.json", partial(from_json, CLIP_CONFIG), read_clip_config, 8),
    "CLIP weights": Kind("a.safetensors", CLIP_WEIGHTS.read_bytes, read_clip_weights, 8),
    "record of CLIP": Kind(
        "training.json", partial(from_json, CLIP / "training.json"), read_toy_clip, 10
    ),
    "name table": Kind("a.pt", lambda: saved({"cat": torch.ones(8)}), read_names),
    "cached features": Kind("a", cached_features, read_cached_features),
    "results": Kind("results.json", lambda: RESULTS, read_results_file),
    "finished set": Kind("results.json", lambda: RESULTS, read_stored_results),
    "published results": Kind("published.yaml", published_results, read_table, 8),
    "scalars": Kind("metrics.json", scalars, read_curves),
    "vocabulary": Kind("a.npz", exported_vocabulary, read_vocabulary),
    "config": Kind("config.yaml", lambda: CONFIG, read_config),
    "model folder": Kind("config.yaml", model_config, read_model_folder, 8),
}


@pytest.fixture
def folder(tmp_path):
    """Folder with a small panoptic set, in which damaged files are written."""
    mini = MiniPanoptic(tmp_path / "mini")
    ids = np.ones((12, 16), int)
    ids[6:] = 300
    mini.add(random_image(12, 16), ids, {})
    (mini.root / "panoptic.json").write_text(json.dumps(PANOPTIC))
    (mini.root / "model_0000001.pth").write_bytes(toy_checkpoint(1))
    return mini.root


@pytest.mark.filterwarnings("ignore")  # of Pillow, about odd metadata
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(kind, folder):
    path = folder / kind.name
    for number, content in enumerate(kind.variants()):
        path.write_bytes(content)
        try:
            kind.read(path)
        except UserError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"damage {number}: {content[:500]!r}") from error
        else:
            continue
        assert number, f"a file without damage is refused: {said}"
        assert "\n" not in said
