"""Every script on its data set in miniature, compared with the truth pixel by pixel."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from ita.cli.datasets import PREPARED
from ita.data.reading import load_semantic_label
from tests.datasets import layouts
from tests.datasets.conftest import SCRIPTS, files, start_all
from tests.datasets.layouts import BUILDERS

# What is made besides label maps.
OTHERS = {
    "ade20k": {
        f"ADEChallengeData2016/{path}"
        for split in ("train", "val")
        for path in (
            f"ade20k_panoptic_{split}.json",
            f"ade20k_instance_{split}.json",
            *(f"ade20k_panoptic_{split}/ADE_{split}_{i:08d}.png" for i in (1, 2)),
        )
    },
    "ade20k_full": {
        f"ADE20K_2021_17_01/images_detectron2/{path}.jpg"
        for path in (
            "validation/ADE_val_00000001",
            "validation/ADE_val_00000002",
            "training/ADE_frame_00000003",
        )
    },
    "cityscapes": {
        "cityscapes/gtFine/cityscapes_instance_val.json",
        "cityscapes/gtFine/cityscapes_panoptic_val.json",
        *(
            f"cityscapes/gtFine/cityscapes_panoptic_val/{city}_000000_000019_gtFine_panoptic.png"
            for city in ("frankfurt", "munster")
        ),
    },
    "coco_semantic": set(),
    "mapillary": {"mapillary_vistas/validation/panoptic"},
    "pascal_context": {
        f"pascal_ctx_d2/images/{path}.jpg"
        for path in ("validation/2008_000002", "validation/2008_000007", "training/2008_000003")
    },
    "pascal_voc": {
        f"pascal_voc_d2/images/{path}.jpg"
        for path in ("validation/2007_000033", "validation/2007_000034", "training/2007_000032")
    },
}


class Prepared(NamedTuple):
    root: Path
    raw: set[str]
    truth: dict[str, layouts.Truth]
    lines: list[str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    """All sets below one root, prepared by their scripts at the same time."""
    root = tmp_path_factory.mktemp("datasets")
    truth = {name: build(root) for name, build in BUILDERS.items()}
    raw = set(files(root))
    names, lines = list(BUILDERS), []
    for process in [start_all(names[:4], root), start_all(names[4:], root)]:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert "images/s]" in errors, "no progress bar with a rate"
        lines += output.splitlines()
    return Prepared(root, raw, truth, lines)


@pytest.mark.parametrize("name", BUILDERS)
def test_label_maps_are_the_truth(prepared, name):
    for path, truth in prepared.truth[name].items():
        label = np.asarray(Image.open(prepared.root / path))
        assert label.dtype == truth.dtype, path
        np.testing.assert_array_equal(label, truth, err_msg=path)


def test_nothing_else_is_made(prepared):
    expected = {path for name in BUILDERS for path in (*prepared.truth[name], *OTHERS[name])}
    assert set(files(prepared.root)) - prepared.raw == {os.path.join(".", p)[2:] for p in expected}


@pytest.mark.parametrize("name", BUILDERS)
def test_they_say_what_they_made(prepared, name):
    made = {prepared.root / path for path in (*prepared.truth[name], *OTHERS[name])}
    json_files = {path for path in made if path.suffix == ".json"}
    count = Counter(path.parent for path in made - json_files)
    for folder, number in count.items():
        assert f"{folder}: wrote {number} files, 0 were finished" in prepared.lines
    for path in json_files:
        assert f"{path}: wrote" in prepared.lines


def test_splits_that_are_not_there_are_named(prepared):
    skipped = [line for line in prepared.lines if "skipped" in line]
    path = prepared.root / "coco/annotations/panoptic_train2017.json"
    assert any(line.startswith(f"train: skipped, {path} not found") for line in skipped)
    assert len(skipped) == 3  # Cityscapes' and Mapillary's


@pytest.mark.parametrize("name", BUILDERS)
def test_again_makes_nothing(prepared, name, prepare):
    before = files(prepared.root)
    code, lines, errors = prepare(name, prepared.root)
    assert (code, errors) == (0, [])
    assert files(prepared.root) == before
    assert all(
        "wrote 0 files" in line or "was finished" in line or "skipped" in line for line in lines
    )


@pytest.mark.parametrize(
    ("registered", "name"),
    [
        ("openvocab_coco_2017_val_panoptic_with_sem_seg", "coco_semantic"),
        ("openvocab_ade20k_panoptic_val", "ade20k"),
        ("openvocab_ade20k_full_sem_seg_val", "ade20k_full"),
        ("openvocab_pascal_ctx59_sem_seg_val", "pascal_context"),
        ("openvocab_pascal_ctx459_sem_seg_val", "pascal_context"),
        ("openvocab_pascal21_sem_seg_val", "pascal_voc"),
        ("openvocab_pascal20_sem_seg_val", "pascal_voc"),
        ("openvocab_cityscapes_fine_panoptic_val", "cityscapes"),
        ("openvocab_mapillary_vistas_panoptic_val", "mapillary"),
    ],
)
def test_the_registered_set_reads_them(prepared, monkeypatch, registered, name):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(prepared.root))
    records = DatasetCatalog.get(registered)
    metadata = MetadataCatalog.get(registered)
    assert records
    for record in records:
        path = os.path.relpath(record["sem_seg_file_name"], prepared.root)
        label = load_semantic_label(record, metadata)
        np.testing.assert_array_equal(label, prepared.truth[name][path].astype(np.int64))
        with Image.open(record["file_name"]) as image:
            assert image.size == label.shape[::-1]


def test_images_are_links_that_may_be_moved_with_the_root(prepared, tmp_path):
    for folder, voc in (("pascal_voc_d2", "VOC2012"), ("pascal_ctx_d2", "VOC2010")):
        for link in (prepared.root / folder / "images").rglob("*.jpg"):
            assert not os.path.isabs(os.readlink(link))
            raw = prepared.root / "VOCdevkit" / voc / "JPEGImages" / link.name
            assert link.resolve() == raw.resolve()


def test_a847_images_shrink_with_their_labels(prepared):
    raw = {
        path.name: path for path in prepared.root.glob("ADE20K_2021_17_01/images/ADE/*/*/*/*.jpg")
    }
    images = list(prepared.root.glob("ADE20K_2021_17_01/images_detectron2/*/*.jpg"))
    sizes = {(640, 512), (512, 580), (400, 300)}
    for path in images:
        image, original = Image.open(path), Image.open(raw[path.name])
        sizes.remove(image.size)
        linear = cv2.resize(np.asarray(original), image.size, interpolation=cv2.INTER_LINEAR)
        assert np.abs(np.asarray(image).astype(int) - linear).mean() < 2
    assert not sizes


@pytest.fixture
def panoptic(prepared):
    """A-150's validation files: panoptic and instances json, and the PNGs' ids by image."""
    folder = prepared.root / "ADEChallengeData2016"
    content, instances = (
        json.loads((folder / f"ade20k_{kind}_val.json").read_text())
        for kind in ("panoptic", "instance")
    )
    ids = {
        annotation["image_id"]: np.asarray(
            Image.open(folder / "ade20k_panoptic_val" / annotation["file_name"])
        ).astype(int)
        @ [1, 256, 65536]
        for annotation in content["annotations"]
    }
    return content, instances, ids


def test_a150_panoptic_is_stuff_under_things(prepared, panoptic):
    content, _, ids = panoptic
    is_thing = {c["id"]: c["isthing"] for c in content["categories"]}
    assert sorted(is_thing) == list(range(150))
    assert sum(is_thing.values()) == 100
    assert [i["file_name"] for i in content["images"]] == [
        f"ADE_val_0000000{i}.jpg" for i in (1, 2)
    ]
    for annotation, image in zip(content["annotations"], content["images"], strict=True):
        image_id = annotation["image_id"]
        assert (image["id"], image_id) == (Path(image["file_name"]).stem,) * 2
        path = f"ADEChallengeData2016/annotations_detectron2/validation/{image_id}.png"
        semantic = prepared.truth["ade20k"][path]
        assert (image["height"], image["width"]) == semantic.shape
        things, numbers = layouts.ade20k_instances(semantic.shape)
        expected = np.full(semantic.shape, -1)
        for class_id in np.unique(semantic[semantic != 255]):
            if not is_thing[int(class_id)]:
                expected[semantic == class_id] = class_id
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(segments) == set(np.unique(ids[image_id])) - {0}
        for number in np.unique(numbers[numbers > 0]):
            mask = numbers == number
            expected[mask] = layouts.A150_THINGS[things[mask][0]]
            (segment_id,) = np.unique(ids[image_id][mask])
            np.testing.assert_array_equal(ids[image_id] == segment_id, mask)
        category = {0: -1} | {i: s["category_id"] for i, s in segments.items()}
        np.testing.assert_array_equal(np.vectorize(category.get)(ids[image_id]), expected)
        for segment in segments.values():
            _check_measures(segment, ids[image_id] == segment["id"])
            assert segment["iscrowd"] == 0


def test_a150_instances_are_the_things(panoptic):
    content, instances, ids = panoptic
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    assert {c["id"] for c in instances["categories"]} == things
    assert instances["images"] == content["images"]
    annotations = instances["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, 9))
    for image_id, map_ in ids.items():
        shape = map_.shape
        _, numbers = layouts.ade20k_instances(shape)
        found = {}
        for annotation in annotations:
            if annotation["image_id"] == image_id:
                mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
                _check_measures(annotation, mask)
                (number,) = np.unique(numbers[mask])
                np.testing.assert_array_equal(mask, numbers == number)
                found[int(number)] = annotation["category_id"]
        assert found == {3: 7, 6: 12, 9: 12, 12: 149}


def test_cityscapes_panoptic_is_as_cityscapesscripts_makes_it(prepared):
    folder = prepared.root / "cityscapes" / "gtFine"
    content = json.loads((folder / "cityscapes_panoptic_val.json").read_text())
    assert [c["id"] for c in content["categories"]] == list(layouts.CITYSCAPES)
    assert [c["isthing"] for c in content["categories"]] == [0] * 11 + [1] * 8
    assert content["images"][0] == {
        "id": "frankfurt_000000_000019",
        "file_name": "frankfurt_000000_000019_gtFine_leftImg8bit.png",
        "height": 20,
        "width": 36,
    }
    truth = layouts.cityscapes_instances().astype(int)
    for annotation in content["annotations"]:
        png = Image.open(folder / "cityscapes_panoptic_val" / annotation["file_name"])
        ids = np.asarray(png).astype(int) @ [1, 256, 65536]
        np.testing.assert_array_equal(ids, np.where(np.isin(truth, (3, 29000)), 0, truth))
        found = {s["id"]: (s["category_id"], s["iscrowd"]) for s in annotation["segments_info"]}
        assert found == {7: (7, 0), 24: (24, 1), 26000: (26, 0), 26001: (26, 0)}
        for segment in annotation["segments_info"]:
            _check_measures(segment, ids == segment["id"])


def test_cityscapes_instances_are_the_things_of_the_panoptic_files(prepared):
    folder = prepared.root / "cityscapes" / "gtFine"
    content = json.loads((folder / "cityscapes_instance_val.json").read_text())
    assert [c["id"] for c in content["categories"]] == list(layouts.CITYSCAPES)[11:]
    assert [a["id"] for a in content["annotations"]] == list(range(1, 7))
    truth = layouts.cityscapes_instances()
    by_image = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for annotations in by_image.values():
        assert [(a["category_id"], a["iscrowd"]) for a in annotations] == [
            (24, 1),
            (26, 0),
            (26, 0),
        ]
        for annotation, thing in zip(annotations, (24, 26000, 26001), strict=True):
            mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
            np.testing.assert_array_equal(mask, truth == thing)
            _check_measures(annotation, mask)


def _check_measures(segment, mask):
    rows, columns = np.nonzero(mask)
    x, y, width, height = segment["bbox"]
    assert segment["area"] == mask.sum()
    assert (x, y) == (columns.min(), rows.min())
    assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())


def test_every_script_is_tested():
    scripts = {path.stem.removeprefix("prepare_") for path in SCRIPTS.glob("prepare_*.py")}
    assert set(BUILDERS) == scripts
    assert {name.replace("_", "-") for name in scripts} == set(PREPARED)
