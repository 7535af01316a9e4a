"""Data sets in miniature as their downloads lay them out, and what must be made of them.

Each function writes a raw layout below a root and returns path below the root -> label map for all
prepared label maps, bit depth included.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from ita.classes import parse_class_list

Truth = dict[str, np.ndarray]

# Published train ids of Cityscapes: position -> label id.
CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# ADE20K index -> class of A-847: some that its published order begins and ends with, and others.
A847 = {2978: 0, 312: 1, 2420: 2, 2855: 3, 2131: 4, 401: 14, 64: 127, 461: 169, 3156: 358}
# A-150's first things: position in the list of things, from 1 -> contiguous class.
A150_THINGS = {1: 7, 2: 8, 3: 10, 4: 12, 5: 14, 100: 149}


def random_labels(values, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Values in random order, each at least once; int64 [H, W]."""
    rng = np.random.default_rng(seed)
    values = np.asarray(list(values))
    more = rng.choice(values, height * width - len(values))
    return rng.permutation(np.concatenate([values, more])).reshape(height, width)


def save_image(path: Path, height: int, width: int) -> None:
    """A smooth color image, which JPEG keeps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, height)[:, None] + np.linspace(0, 200, width)[None]
    pixels = np.stack([ramp / 2, 255 - ramp / 2, ramp / 3], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def save_map(path: Path, values: np.ndarray, mode: str = "") -> None:
    """A label map of 8 or 16 bits; with mode "P" with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def save_ids(path: Path, ids: np.ndarray) -> None:
    """A COCO panoptic PNG."""
    save_map(path, np.stack([ids % 256, ids // 256 % 256, ids >> 16], axis=-1).astype(np.uint8))


def _panoptic(json_file: Path, folder: Path, classes: dict[int, int], void: int) -> np.ndarray:
    """One PNG with a segment per category, one of them a crowd, and unlabelled pixels."""
    json_file.parent.mkdir(parents=True, exist_ok=True)
    segment_ids = {category: 7 + 70000 * i for i, category in enumerate(classes)}
    ids = random_labels([0, *segment_ids.values()], 20, 30)
    save_ids(folder / "image.png", ids)
    segments = [
        {"id": i, "category_id": category, "iscrowd": int(i == 7), "area": 1, "bbox": [0, 0, 1, 1]}
        for category, i in segment_ids.items()
    ]
    content = {
        "images": [{"id": 5, "file_name": "image.jpg", "height": 20, "width": 30}],
        "annotations": [{"image_id": 5, "file_name": "image.png", "segments_info": segments}],
        "categories": [{"id": i, "name": str(i), "isthing": 0} for i in classes],
    }
    json_file.write_text(json.dumps(content))
    truth = np.full(ids.shape, void, np.uint8)
    for category, segment_id in segment_ids.items():
        truth[ids == segment_id] = classes[category]
    return truth


def coco(root: Path, split: str = "val") -> Truth:
    folder = root / "coco"
    truth = _panoptic(
        folder / "annotations" / f"panoptic_{split}2017.json",
        folder / f"panoptic_{split}2017",
        {1: 0, 11: 10, 13: 11, 90: 79, 92: 80, 200: 132},
        255,
    )
    save_image(folder / f"{split}2017" / "image.jpg", 20, 30)
    return {f"coco/panoptic_semseg_{split}2017/image.png": truth}


def mapillary(root: Path, *, labels: bool = False, version: str = "v1.2") -> Truth:
    """Without label maps, so that they must be made; or as they come."""
    folder = root / "mapillary_vistas" / "validation"
    raw = folder / version
    truth = _panoptic(
        raw / "panoptic" / "panoptic_2018.json", raw / "panoptic", {1: 0, 30: 29, 65: 64}, 65
    )
    save_image(folder / "images" / "image.jpg", 20, 30)
    if labels:
        save_map(raw / "labels" / "image.png", truth, "P")
    return {"mapillary_vistas/validation/labels/image.png": truth}


def ade20k(root: Path, *, instances: bool = True) -> Truth:
    """Two images; their panoptic files are described by :func:`ade20k_instances`."""
    ade, truth = root / "ADEChallengeData2016", {}
    for split, folder in (("train", "training"), ("val", "validation")):
        for number in (1, 2):
            stem = f"ADE_{split}_{number:08d}"
            values = random_labels(range(151), 24, 40 + number, seed=number)
            save_image(ade / "images" / folder / f"{stem}.jpg", *values.shape)
            save_map(ade / "annotations" / folder / f"{stem}.png", values.astype(np.uint8))
            if instances:
                things, number_map = ade20k_instances(values.shape)
                color = np.stack([things, number_map, np.zeros_like(things)], axis=-1)
                save_map(
                    ade / "annotations_instance" / folder / f"{stem}.png", color.astype(np.uint8)
                )
            label = np.where(values == 0, 255, values - 1).astype(np.uint8)
            truth[f"ADEChallengeData2016/annotations_detectron2/{folder}/{stem}.png"] = label
    return truth


def ade20k_instances(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Thing (R) and instance number (G) of each pixel: rectangles above nothing."""
    things, numbers = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, (thing, rows, columns) in enumerate(
        [
            (1, slice(0, 5), slice(0, 9)),
            (4, slice(5, 9), slice(2, 11)),
            (4, slice(9, 12), slice(20, 30)),
            (100, slice(20, 24), slice(31, 41)),
        ],
        start=1,
    ):
        things[rows, columns] = thing
        numbers[rows, columns] = 3 * number
    # A class without instance, as the originals have them.
    things[15:17] = 2
    return things, numbers


def ade20k_full(root: Path, *, index: bool = True, parent: str = "") -> Truth:
    """A wide, a tall and a small image, in nested folders; indices in random order."""
    name = f"{parent}ADE20K_2021_17_01"
    scenes = {
        "ADE_val_00000001": ("validation/urban/street", 640, 800, 512, 640),
        "ADE_val_00000002": ("validation/home_or_hotel/bed__room", 600, 530, 580, 512),
        "ADE_frame_00000003": ("training/work_place/office", 300, 400, 300, 400),
    }
    truth, folders = {}, []
    for seed, (stem, (scene, height, width, new_height, new_width)) in enumerate(scenes.items()):
        relative = f"ADE20K_2021_17_01/images/ADE/{scene}"
        folder = root / parent / relative
        folders.append(relative)
        indices = random_labels([0, 1, 3688, *A847], height, width, seed)
        save_image(folder / f"{stem}.jpg", height, width)
        # The ones of R and all of B do not count.
        more = np.random.default_rng(seed).integers(0, 10, indices.shape)
        color = np.stack([indices // 256 * 10 + more % 6, indices % 256, more], axis=-1)
        save_map(folder / f"{stem}_seg.png", color.astype(np.uint8))
        save_map(folder / f"{stem}_parts_1.png", np.zeros((2, 2, 3), np.uint8))
        save_map(folder / stem / f"instance_000_{stem}.png", np.uint8([[255]]))
        save_image(folder / stem / "ADE_not_an_image.jpg", 2, 2)
        rows = np.arange(new_height) * height // new_height
        columns = np.arange(new_width) * width // new_width
        small = indices[np.ix_(rows, columns)]
        label = np.full(small.shape, 65535, np.uint16)
        for ade_index, class_id in A847.items():
            label[small == ade_index] = class_id
        split = "validation" if "_val_" in stem else "training"
        truth[f"{name}/annotations_detectron2/{split}/{stem}.tif"] = label
    if index:
        content = {
            "filename": [f"{stem}.jpg" for stem in scenes],
            "folder": folders,
            "objectPresence": np.eye(3),
            "objectnames": ["-", "aarm panel"],
        }
        (root / name / "index_ade20k.pkl").write_bytes(pickle.dumps(content))
    return truth


def pascal_context(root: Path) -> Truth:
    voc, truth = root / "VOCdevkit" / "VOC2010", {}
    # The 59 are those of the 459 that have their names, but for three.
    of_name = {names[0]: i for i, names in parse_class_list("pc459").items()}
    others = {"computer case": "computer", "street": "road", "dining table": "table"}
    of_name |= {name: of_name[other] for name, other in others.items()}
    pc59 = {of_name[names[0]]: i - 1 for i, names in parse_class_list("pc59").items()}
    listed = {"images": [], "categories": [], "annos_segmentation": []}
    for number, (stem, phase) in enumerate(
        [("2008_000002", "val"), ("2008_000003", "train"), ("2008_000007", "val")]
    ):
        raw = random_labels(range(460), 30, 50 + number, seed=number).astype(np.uint16)
        save_image(voc / "JPEGImages" / f"{stem}.jpg", *raw.shape)
        (voc / "trainval").mkdir(exist_ok=True)
        scipy.io.savemat(voc / "trainval" / f"{stem}.mat", {"LabelMap": raw}, do_compression=True)
        listed["images"].append({"file_name": f"{stem}.jpg", "phase": phase, "image_id": number})
        folder = {"train": "training", "val": "validation"}[phase]
        label59 = np.full(raw.shape, 255, np.uint8)
        for raw_id, class_id in pc59.items():
            label59[raw == raw_id] = class_id
        truth[f"pascal_ctx_d2/annotations_ctx59/{folder}/{stem}.png"] = label59
        label459 = np.where(raw == 0, 65535, raw.astype(int) - 1).astype(np.uint16)
        truth[f"pascal_ctx_d2/annotations_ctx459/{folder}/{stem}.tif"] = label459
    # Images of the download that the benchmark leaves out.
    save_image(voc / "JPEGImages" / "2008_009999.jpg", 5, 5)
    (voc / "trainval_merged.json").write_text(json.dumps(listed))
    return truth


def pascal_voc(root: Path, count: int = 2) -> Truth:
    voc, truth = root / "VOCdevkit" / "VOC2012", {}
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    stems = {
        "train": ["2007_000032"],
        "val": [f"2007_{number:06d}" for number in range(33, 33 + count)],
    }
    for split, folder in (("train", "training"), ("val", "validation")):
        listed = voc / "ImageSets" / "Segmentation" / f"{split}.txt"
        listed.write_text("\n".join(stems[split]) + "\n")
        for stem in stems[split]:
            raw = random_labels([*range(21), 255], 30, 41, seed=int(stem[-6:])).astype(np.uint8)
            save_image(voc / "JPEGImages" / f"{stem}.jpg", *raw.shape)
            save_map(voc / "SegmentationClass" / f"{stem}.png", raw, "P")
            truth[f"pascal_voc_d2/annotations_pascal21/{folder}/{stem}.png"] = raw
            pas20 = np.where((raw == 0) | (raw == 255), 255, raw.astype(int) - 1).astype(np.uint8)
            truth[f"pascal_voc_d2/annotations_pascal20/{folder}/{stem}.png"] = pas20
    return truth


def cityscapes(root: Path) -> Truth:
    """Two cities; the instance map is that of :func:`cityscapes_instances`."""
    truth = {}
    for city in ("frankfurt", "munster"):
        stem = f"{city}_000000_000019"
        fine = root / "cityscapes" / "gtFine" / "val" / city
        raw = random_labels(range(34), 20, 36, seed=len(city)).astype(np.uint8)
        image = root / "cityscapes" / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png"
        save_image(image, *raw.shape)
        save_map(fine / f"{stem}_gtFine_labelIds.png", raw)
        save_map(fine / f"{stem}_gtFine_instanceIds.png", cityscapes_instances())
        save_map(fine / f"{stem}_gtFine_color.png", np.zeros((*raw.shape, 4), np.uint8))
        label = np.full(raw.shape, 255, np.uint8)
        for class_id, label_id in enumerate(CITYSCAPES):
            label[raw == label_id] = class_id
        truth[f"cityscapes/gtFine/val/{city}/{stem}_gtFine_labelTrainIds.png"] = label
    return truth


def cityscapes_instances() -> np.ndarray:
    """Road (7), void (3), two cars (26), a crowd of persons (24), a caravan (29: void)."""
    ids = np.full((20, 36), 7, np.uint16)
    ids[:4], ids[4:6, :9], ids[4:7, 10:20] = 3, 26000, 26001
    ids[10:14, 3:30], ids[16:, 30:] = 24, 29000
    return ids


BUILDERS = {
    "ade20k": ade20k,
    "ade20k_full": ade20k_full,
    "cityscapes": cityscapes,
    "coco_semantic": coco,
    "mapillary": mapillary,
    "pascal_context": pascal_context,
    "pascal_voc": pascal_voc,
}
