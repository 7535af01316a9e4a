"""The catalogue of benchmarks: one row per data set split.

A data set is a row and a class list file. Paths are relative to the folder named by the environment
variable DETECTRON2_DATASETS ("datasets" if unset).
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ita.data.orientation import STORED

ROOT_VARIABLE = "DETECTRON2_DATASETS"
# Detectron2's ``evaluator_type`` of a data set with semantic labels only.
SEMANTIC = "sem_seg"
# Short side and maximum long side of test images, in pixels (design section 7).
TEST_SIZE = (800, 1333)
STREET_TEST_SIZE = (1024, 2560)
# Void value of 16-bit label maps; in 8-bit ones it is 255.
VOID_16_BIT = 65535
# Number of values that a label map can have; image files hold at most 16 bits per pixel.
MAX_LABEL_VALUES = 1 << 16


def datasets_root() -> Path:
    """Folder of all data sets, from DETECTRON2_DATASETS."""
    return Path(os.environ.get(ROOT_VARIABLE) or "datasets").expanduser()


@dataclass(frozen=True)
class LabelFolder:
    """A folder of label maps and the meaning of their values.

    Attributes:
        path: the folder; its subfolders match those of the images.
        contiguous: values are 0 ... C-1 in the order of the class list, as in prepared folders;
            otherwise they are the ids of the class list file.
        ignored: values for "not labelled". A value that is neither a class nor ignored is an error.
        suffix: end of a label map's name, after the image's stem.
        bits: minimum bits per pixel; fewer would have truncated the ignored value to a class.
        image_root: folder of the images, if it is not the row's.
        stems: text file of the stems in the set, one per line; empty selects all.
        made_by: command that creates the folder; empty if it is part of the download.
    """

    path: str
    contiguous: bool = True
    ignored: tuple[int, ...] = (255,)
    suffix: str = ".png"
    bits: int = 8
    image_root: str = ""
    stems: str = ""
    made_by: str = ""


@dataclass(frozen=True)
class DatasetRow:
    """A data set: the location of its files and how to read them.

    Attributes:
        name: registered name.
        family: short name of the data set, shared by its splits.
        split: "train" or "val"; empty in custom data sets.
        class_list: name of a list in ``ita/class_lists`` or path of a class list file.
        image_root: folder of the images.
        image_suffix: end of an image's name, after its stem; empty accepts any image suffix.
        things: contiguous ids of the thing classes; the other classes are stuff.
        panoptic_root: folder of the panoptic PNGs; empty if the set has none.
        panoptic_json: COCO panoptic json. Without it and the PNGs, a set is semantic only.
        panoptic_suffix: end of a panoptic PNG's name, after the image's stem.
        contiguous_categories: category ids of the json files are contiguous ids; otherwise they
            are the ids of the class list file.
        panoptic_made_by: command that creates the panoptic files; empty if they are part of the
            download.
        instances_json: COCO instances json, optional on disk.
        instances_made_by: command that creates it; empty if it is part of the download.
        label_folders: semantic labels; the first folder with label maps is used. Optional if there
            are panoptic files.
        ignore_label: class id of unlabelled pixels.
        label_orientation: whether labels belong to the pixels of an image with EXIF orientation as
            "stored" or "upright", if their size does not tell.
        evaluator_type: Detectron2's name for the evaluations that the set supports.
        test_size: short side and maximum long side of test images, in pixels.
        num_images: number of images in the complete set; 0 accepts any number.
        download: downloaded files and folders that the set or its preparation needs.
        optional_download: those that only the panoptic and instance files are created from.
        preparation: module of ``ita.data.preparing`` that prepares the set; empty if none does.
        described_in: YAML file that describes a custom data set.
    """

    name: str
    class_list: str
    image_root: str
    family: str = ""
    split: str = ""
    image_suffix: str = ""
    things: tuple[int, ...] = ()
    panoptic_root: str = ""
    panoptic_json: str = ""
    panoptic_suffix: str = ".png"
    contiguous_categories: bool = False
    panoptic_made_by: str = ""
    instances_json: str = ""
    instances_made_by: str = ""
    label_folders: tuple[LabelFolder, ...] = ()
    ignore_label: int = 255
    label_orientation: str = STORED
    evaluator_type: str = SEMANTIC
    test_size: tuple[int, int] = TEST_SIZE
    num_images: int = 0
    download: tuple[str, ...] = ()
    optional_download: tuple[str, ...] = ()
    preparation: str = ""
    described_in: str = ""


# Contiguous ids of A-150's 50 stuff classes; the other 100 have instances.
_ADE150_STUFF = frozenset((
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60,
    61, 63, 68, 77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131,
    140, 141, 145,
))  # fmt: skip
# Contiguous ids of the 37 classes of Mapillary Vistas v1.2 that have instances.
_MAPILLARY_THINGS = (
    0, 1, 8, *range(19, 24), *range(32, 43), *range(44, 58), *range(59, 63),
)  # fmt: skip
# Label ids of Cityscapes that are not evaluated.
_CITYSCAPES_VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
# Folder names of the two splits in ADE20K and in prepared data sets.
_FOLDERS = {"train": "training", "val": "validation"}


def _prepare(name: str, split: str) -> str:
    return f"ita datasets prepare {name} --split {split}"


def _coco_row(split: str, num_images: int) -> DatasetRow:
    return DatasetRow(
        name=f"openvocab_coco_2017_{split}_panoptic_with_sem_seg",
        family="coco",
        split=split,
        class_list="coco133",
        image_root=f"coco/{split}2017",
        things=tuple(range(80)),
        panoptic_root=f"coco/panoptic_{split}2017",
        panoptic_json=f"coco/annotations/panoptic_{split}2017.json",
        instances_json=f"coco/annotations/instances_{split}2017.json",
        label_folders=(
            LabelFolder(
                f"coco/panoptic_semseg_{split}2017",
                made_by=_prepare("coco-semantic", split),
            ),
        ),
        evaluator_type="coco_panoptic_seg",
        num_images=num_images,
        download=(
            f"coco/{split}2017",
            f"coco/panoptic_{split}2017",
            f"coco/annotations/panoptic_{split}2017.json",
        ),
        preparation="coco",
    )


def _ade150_row(split: str, num_images: int) -> DatasetRow:
    ade, folder = "ADEChallengeData2016", _FOLDERS[split]
    command = _prepare("ade20k", split)
    return DatasetRow(
        name=f"openvocab_ade20k_panoptic_{split}",
        family="ade20k",
        split=split,
        class_list="ade150",
        image_root=f"{ade}/images/{folder}",
        things=tuple(i for i in range(150) if i not in _ADE150_STUFF),
        panoptic_root=f"{ade}/ade20k_panoptic_{split}",
        panoptic_json=f"{ade}/ade20k_panoptic_{split}.json",
        panoptic_made_by=command,
        contiguous_categories=True,
        instances_json=f"{ade}/ade20k_instance_{split}.json",
        instances_made_by=command,
        label_folders=(
            LabelFolder(f"{ade}/annotations_detectron2/{folder}", made_by=command),
            LabelFolder(f"{ade}/annotations/{folder}", contiguous=False, ignored=(0,)),
        ),
        evaluator_type="ade20k_panoptic_seg",
        num_images=num_images,
        download=(f"{ade}/images/{folder}", f"{ade}/annotations/{folder}"),
        optional_download=(f"{ade}/annotations_instance/{folder}",),
        preparation="ade20k",
    )


def _ade847_row(split: str, num_images: int) -> DatasetRow:
    folder = _FOLDERS[split]
    # Some directory trees have it below ade/.
    places = [f"{parent}ADE20K_2021_17_01" for parent in ("", "ade/")]
    return DatasetRow(
        name=f"openvocab_ade20k_full_sem_seg_{split}",
        family="a847",
        split=split,
        class_list="ade847",
        image_root=f"{places[0]}/images_detectron2/{folder}",
        label_folders=tuple(
            LabelFolder(
                f"{ade}/annotations_detectron2/{folder}",
                ignored=(VOID_16_BIT,),
                suffix=".tif",
                bits=16,
                image_root=f"{ade}/images_detectron2/{folder}",
                made_by=_prepare("ade20k-full", split),
            )
            for ade in places
        ),
        ignore_label=VOID_16_BIT,
        num_images=num_images,
        download=(f"{places[0]}/images/ADE/{folder}",),
        preparation="ade20k_full",
    )


def _context_row(classes: int, split: str, num_images: int) -> DatasetRow:
    folder, voc = _FOLDERS[split], "VOCdevkit/VOC2010"
    label_folder = LabelFolder(
        f"pascal_ctx_d2/annotations_ctx{classes}/{folder}",
        made_by=_prepare("pascal-context", split),
    )
    if classes == 459:
        label_folder = replace(label_folder, suffix=".tif", bits=16, ignored=(VOID_16_BIT,))
    return DatasetRow(
        name=f"openvocab_pascal_ctx{classes}_sem_seg_{split}",
        family=f"pc{classes}",
        split=split,
        class_list=f"pc{classes}",
        image_root=f"pascal_ctx_d2/images/{folder}",
        label_folders=(label_folder,),
        ignore_label=label_folder.ignored[0],
        num_images=num_images,
        download=(f"{voc}/JPEGImages", f"{voc}/trainval", f"{voc}/trainval_merged.json"),
        preparation="pascal_context",
    )


def _voc_row(classes: int, split: str, num_images: int) -> DatasetRow:
    folder, voc = _FOLDERS[split], "VOCdevkit/VOC2012"
    raw = LabelFolder(
        f"{voc}/SegmentationClass",
        contiguous=False,
        # The background (0) is not one of the 20 classes.
        ignored=(255,) if classes == 21 else (0, 255),
        image_root=f"{voc}/JPEGImages",
        stems=f"{voc}/ImageSets/Segmentation/{split}.txt",
    )
    return DatasetRow(
        name=f"openvocab_pascal{classes}_sem_seg_{split}",
        family=f"pas{classes}",
        split=split,
        class_list=f"pas{classes}",
        image_root=f"pascal_voc_d2/images/{folder}",
        label_folders=(
            LabelFolder(
                f"pascal_voc_d2/annotations_pascal{classes}/{folder}",
                made_by=_prepare("pascal-voc", split),
            ),
            raw,
        ),
        num_images=num_images,
        download=(raw.image_root, raw.path, raw.stems),
        preparation="pascal_voc",
    )


def _cityscapes_row(split: str, num_images: int) -> DatasetRow:
    labels, command = f"cityscapes/gtFine/{split}", _prepare("cityscapes", split)
    return DatasetRow(
        name=f"openvocab_cityscapes_fine_panoptic_{split}",
        family="cityscapes",
        split=split,
        class_list="cityscapes19",
        image_root=f"cityscapes/leftImg8bit/{split}",
        image_suffix="_leftImg8bit.png",
        things=tuple(range(11, 19)),
        panoptic_root=f"cityscapes/gtFine/cityscapes_panoptic_{split}",
        panoptic_json=f"cityscapes/gtFine/cityscapes_panoptic_{split}.json",
        panoptic_suffix="_gtFine_panoptic.png",
        panoptic_made_by=command,
        instances_json=f"cityscapes/gtFine/cityscapes_instance_{split}.json",
        instances_made_by=command,
        label_folders=(
            LabelFolder(labels, suffix="_gtFine_labelTrainIds.png", made_by=command),
            LabelFolder(
                labels,
                contiguous=False,
                ignored=_CITYSCAPES_VOID,
                suffix="_gtFine_labelIds.png",
            ),
        ),
        evaluator_type="cityscapes_panoptic_seg",
        test_size=STREET_TEST_SIZE,
        num_images=num_images,
        download=(f"cityscapes/leftImg8bit/{split}", labels),
        preparation="cityscapes",
    )


def _mapillary_row(split: str, num_images: int) -> DatasetRow:
    folder, command = f"mapillary_vistas/{_FOLDERS[split]}", _prepare("mapillary", split)
    return DatasetRow(
        name=f"openvocab_mapillary_vistas_panoptic_{split}",
        family="mapillary",
        split=split,
        class_list="mapillary65",
        image_root=f"{folder}/images",
        image_suffix=".jpg",
        things=_MAPILLARY_THINGS,
        panoptic_root=f"{folder}/panoptic",
        panoptic_json=f"{folder}/panoptic/panoptic_2018.json",
        panoptic_made_by=command,
        label_folders=(LabelFolder(f"{folder}/labels", ignored=(65,), made_by=command),),
        ignore_label=65,
        evaluator_type="mapillary_vistas_panoptic_seg",
        test_size=STREET_TEST_SIZE,
        num_images=num_images,
        download=(f"{folder}/images",),
        preparation="mapillary",
    )


CATALOGUE: tuple[DatasetRow, ...] = (
    _coco_row("train", 118287),
    _coco_row("val", 5000),
    _ade150_row("train", 20210),
    _ade150_row("val", 2000),
    _ade847_row("train", 25574),
    _ade847_row("val", 2000),
    _context_row(59, "train", 4996),
    _context_row(59, "val", 5104),
    _context_row(459, "train", 4996),
    _context_row(459, "val", 5104),
    _voc_row(20, "train", 1464),
    _voc_row(20, "val", 1449),
    _voc_row(21, "train", 1464),
    _voc_row(21, "val", 1449),
    _cityscapes_row("train", 2975),
    _cityscapes_row("val", 500),
    _mapillary_row("train", 18000),
    _mapillary_row("val", 2000),
)

# Other names on command lines -> families: those of the literature and of the preparations.
OTHER_NAMES = {
    "a150": ("ade20k",),
    "ade20k-full": ("a847",),
    "coco-semantic": ("coco",),
    "pascal-context": ("pc59", "pc459"),
    "pascal-voc": ("pas20", "pas21"),
}


def families_of(name: str) -> tuple[str, ...]:
    """Families of data sets that a name stands for; that of an unknown name is the name."""
    return OTHER_NAMES.get(name, (name,))


def other_names(name: str) -> tuple[str, ...]:
    """Names that stand for the same data sets as a name, or for a part of them."""
    same = (other for other, families in OTHER_NAMES.items() if families == (name,))
    return (*OTHER_NAMES.get(name, ()), *same)


def things_of_list(class_list: str) -> frozenset[int]:
    """Indices of the thing classes of a packaged class list; empty for lists without such marks."""
    return frozenset(i for row in CATALOGUE if row.class_list == class_list for i in row.things)
