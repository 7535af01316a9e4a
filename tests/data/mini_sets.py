"""The benchmarks in miniature, on disk in their true layouts and formats.

Every function writes validation images with random labels under a root and returns the truth: image
stem -> contiguous class ids [H, W], with the set's ignore label where unlabelled.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.mini import random_image

SIZE = (24, 32)
VOC_PALETTE = np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tolist()


def blocks(classes: int, void: int, seed: int) -> np.ndarray:
    """Labels in blocks of 8 pixels: the last class, the first, void, and others."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (SIZE[0] // 8, SIZE[1] // 8))
    coarse.flat[:3] = (classes - 1, 0, void)
    return coarse.repeat(8, 0).repeat(8, 1)


def save(array: np.ndarray, path: Path, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image = Image.fromarray(array, mode="P")
        image.putpalette(VOC_PALETTE)
    image.save(path)


def save_image(path: Path, seed: int) -> None:
    save(random_image(*SIZE, seed=seed), path)


def stems(pattern: str, count: int) -> list[str]:
    return [pattern.format(number) for number in range(1, count + 1)]


def semantic(images, labels, suffix, dtype, classes, void, *, pattern, count=2):
    """A prepared semantic set: jpg images and label maps of the same stems."""
    truth = {}
    for seed, stem in enumerate(stems(pattern, count)):
        truth[stem] = blocks(classes, void, seed)
        save_image(images / f"{stem}.jpg", seed)
        save(truth[stem].astype(dtype), labels / f"{stem}{suffix}")
    return truth


def ade847(root, count=2, place="ADE20K_2021_17_01"):
    folder = root / place
    return semantic(
        folder / "images_detectron2" / "validation",
        folder / "annotations_detectron2" / "validation",
        ".tif",
        np.uint16,
        847,
        65535,
        pattern="ADE_val_{:08d}",
        count=count,
    )


def context59(root, count=2):
    folder = root / "pascal_ctx_d2"
    images, labels = folder / "images", folder / "annotations_ctx59"
    formats = ("validation", ".png", np.uint8, 59, 255)
    return _in_split(images, labels, *formats, "2008_{:06d}", count)


def context459(root, count=2):
    folder = root / "pascal_ctx_d2"
    images, labels = folder / "images", folder / "annotations_ctx459"
    formats = ("validation", ".tif", np.uint16, 459, 65535)
    return _in_split(images, labels, *formats, "2008_{:06d}", count)


def voc20(root, count=2):
    folder = root / "pascal_voc_d2"
    images, labels = folder / "images", folder / "annotations_pascal20"
    return _in_split(images, labels, "validation", ".png", np.uint8, 20, 255, "2007_{:06d}", count)


def voc21(root, count=2):
    folder = root / "pascal_voc_d2"
    images, labels = folder / "images", folder / "annotations_pascal21"
    return _in_split(images, labels, "validation", ".png", np.uint8, 21, 255, "2007_{:06d}", count)


def _in_split(images, labels, split, suffix, dtype, classes, void, pattern, count):
    return semantic(
        images / split, labels / split, suffix, dtype, classes, void, pattern=pattern, count=count
    )


def voc_raw(root, count=2):
    """The download: palette PNGs, and an image outside the list. The truth is PAS-21's."""
    voc = root / "VOCdevkit" / "VOC2012"
    truth = {stem: blocks(21, 255, seed) for seed, stem in enumerate(stems("2007_{:06d}", count))}
    for seed, stem in enumerate([*truth, "2007_009999"]):
        save_image(voc / "JPEGImages" / f"{stem}.jpg", seed)
        values = blocks(21, 255, seed).astype(np.uint8)
        save(values, voc / "SegmentationClass" / f"{stem}.png", palette=True)
    listed = voc / "ImageSets" / "Segmentation"
    listed.mkdir(parents=True)
    (listed / "val.txt").write_text("".join(f"{stem}\n" for stem in truth))
    return truth


def ade150(root, count=2):
    """The download, without instances."""
    folder = root / "ADEChallengeData2016"
    truth = {}
    for seed, stem in enumerate(stems("ADE_val_{:08d}", count)):
        truth[stem] = blocks(150, 255, seed)
        raw = np.where(truth[stem] == 255, 0, truth[stem] + 1)
        save_image(folder / "images" / "validation" / f"{stem}.jpg", seed)
        save(raw.astype(np.uint8), folder / "annotations" / "validation" / f"{stem}.png")
    return truth


def coco(root, count=2):
    """Panoptic files only."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    folder = root / "coco"
    content = {"images": [], "annotations": [], "categories": COCO_CATEGORIES}
    truth = {}
    for seed, stem in enumerate(stems("{:012d}", count)):
        truth[stem] = blocks(133, 255, seed)
        save_image(folder / "val2017" / f"{stem}.jpg", seed)
        ids = np.where(truth[stem] == 255, 0, truth[stem] + 1000)
        segments = describe(ids, lambda i: COCO_CATEGORIES[i - 1000]["id"])
        save_panoptic(ids, folder / "panoptic_val2017" / f"{stem}.png")
        add_image(content, int(stem), f"{stem}.jpg", f"{stem}.png", segments)
    save_json(content, folder / "annotations" / "panoptic_val2017.json")
    return truth


# Label ids of Cityscapes' 19 classes in the order of their train ids.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def cityscapes(root, count=2, prepared=True):
    """Images in a folder per city; label ids from the download, the rest by cityscapesscripts."""
    folder = root / "cityscapes"
    content = {"images": [], "annotations": [], "categories": []}
    for i, c in enumerate(CITYSCAPES_IDS):
        content["categories"].append({"id": c, "name": f"class {i}", "isthing": int(i >= 11)})
    truth = {}
    for seed, city in enumerate(("frankfurt", "lindau", "munster")[:count]):
        stem = f"{city}_000000_{seed:06d}"
        truth[stem] = blocks(19, 255, seed)
        label_ids = np.array([*CITYSCAPES_IDS, *[4] * 237])[truth[stem]]
        save_image(folder / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png", seed)
        annotation = f"{folder}/gtFine/val/{city}/{stem}_gtFine"
        save(label_ids.astype(np.uint8), Path(f"{annotation}_labelIds.png"))
        if not prepared:
            continue
        save(truth[stem].astype(np.uint8), Path(f"{annotation}_labelTrainIds.png"))
        # Stuff has its label id; things have a number, too.
        ids = np.where(truth[stem] >= 11, label_ids * 1000 + 1, label_ids)
        ids[truth[stem] == 255] = 0
        segments = describe(ids, lambda i: i // 1000 or i)
        png = f"{stem}_gtFine_panoptic.png"
        save_panoptic(ids, folder / "gtFine" / "cityscapes_panoptic_val" / png)
        # The script that makes the json calls the images by a name that they do not have.
        add_image(content, stem, f"{stem}_gtFine_leftImg8bit.png", png, segments)
    if prepared:
        save_json(content, folder / "gtFine" / "cityscapes_panoptic_val.json")
    return truth


def mapillary(root, count=2):
    """As downloaded: palette label maps with 65 for unlabelled, panoptic files."""
    folder = root / "mapillary_vistas" / "validation"
    content = {"images": [], "annotations": [], "categories": []}
    for i in range(65):
        content["categories"].append({"id": i + 1, "name": f"class {i}", "isthing": int(i < 2)})
    truth = {}
    for seed, stem in enumerate(stems("-AbC_{:02d}xyz", count)):
        truth[stem] = blocks(65, 65, seed)
        save_image(folder / "images" / f"{stem}.jpg", seed)
        save(truth[stem].astype(np.uint8), folder / "labels" / f"{stem}.png", palette=True)
        ids = np.where(truth[stem] == 65, 0, truth[stem] + 100_000)
        segments = describe(ids, lambda i: i - 100_000 + 1)
        save_panoptic(ids, folder / "panoptic" / f"{stem}.png")
        add_image(content, stem, f"{stem}.jpg", f"{stem}.png", segments)
    save_json(content, folder / "panoptic" / "panoptic_2018.json")
    return truth


def describe(ids: np.ndarray, category_of) -> list[dict]:
    """``segments_info`` of a map of segment ids, 0 unlabelled."""
    values, areas = np.unique(ids[ids > 0], return_counts=True)
    return [
        {"id": i, "category_id": category_of(i), "area": area, "iscrowd": 0}
        for i, area in zip(values.tolist(), areas.tolist(), strict=True)
    ]


def save_panoptic(ids: np.ndarray, path: Path) -> None:
    save(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8), path)


def add_image(content, image_id, file_name, png, segments) -> None:
    height, width = SIZE
    content["images"].append(
        {"id": image_id, "file_name": file_name, "height": height, "width": width}
    )
    content["annotations"].append(
        {"image_id": image_id, "file_name": png, "segments_info": segments}
    )


def save_json(content, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# Registered name -> what writes it.
WRITERS = {
    "openvocab_coco_2017_val_panoptic_with_sem_seg": coco,
    "openvocab_ade20k_panoptic_val": ade150,
    "openvocab_ade20k_full_sem_seg_val": ade847,
    "openvocab_pascal_ctx59_sem_seg_val": context59,
    "openvocab_pascal_ctx459_sem_seg_val": context459,
    "openvocab_pascal20_sem_seg_val": voc20,
    "openvocab_pascal21_sem_seg_val": voc21,
    "openvocab_cityscapes_fine_panoptic_val": cityscapes,
    "openvocab_mapillary_vistas_panoptic_val": mapillary,
}
