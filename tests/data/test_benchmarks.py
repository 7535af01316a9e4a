"""The benchmarks' prepared trees and downloads, read as training and evaluation read them."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ita.data.mapper import InferenceMapper, TrainingMapper
from ita.data.reading import load_semantic_label
from ita.errors import UserError
from tests.data import mini_sets

A847 = "openvocab_ade20k_full_sem_seg_val"
PC459 = "openvocab_pascal_ctx459_sem_seg_val"
PAS20 = "openvocab_pascal20_sem_seg_val"
PAS21 = "openvocab_pascal21_sem_seg_val"
CITYSCAPES = "openvocab_cityscapes_fine_panoptic_val"
MAPILLARY = "openvocab_mapillary_vistas_panoptic_val"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def labels_of(name: str) -> dict[str, np.ndarray]:
    """Image stem -> labels as evaluation gets them."""
    metadata = MetadataCatalog.get(name)
    labels = {}
    for record in DatasetCatalog.get(name):
        stem = Path(record["file_name"]).stem.removesuffix("_leftImg8bit")
        labels[stem] = load_semantic_label(record, metadata)
    return labels


def assert_same(labels, truth):
    assert labels.keys() == truth.keys()
    for stem, label in labels.items():
        np.testing.assert_array_equal(label, truth[stem])


@pytest.mark.parametrize("name", mini_sets.WRITERS)
def test_labels_pixel_by_pixel(root, name):
    truth = mini_sets.WRITERS[name](root)
    assert_same(labels_of(name), truth)
    metadata = MetadataCatalog.get(name)
    void, classes = metadata.ignore_label, len(metadata.class_list)
    assert all(void in label and classes - 1 in label for label in truth.values())


@pytest.mark.parametrize("name", mini_sets.WRITERS)
def test_every_set_can_be_trained_on(root, name):
    """Void, also Mapillary's 65 and that of 16 bits, is no target."""
    truth = mini_sets.WRITERS[name](root)
    metadata = MetadataCatalog.get(name)
    mapper = TrainingMapper(
        metadata, image_size=32, min_scale=1, max_scale=1, flip="none", pad=True
    )
    mapped = mapper(DatasetCatalog.get(name)[0])
    label = truth[min(truth)]
    instances = mapped["instances"]
    assert set(instances.gt_classes.tolist()) == set(np.unique(label)) - {metadata.ignore_label}
    assert int(instances.gt_masks.dense().sum()) == (label != metadata.ignore_label).sum()


def test_a847_in_the_other_place(root):
    truth = mini_sets.ade847(root, place="ade/ADE20K_2021_17_01")
    assert_same(labels_of(A847), truth)
    assert MetadataCatalog.get(A847).image_root.startswith(f"{root}/ade/")


def test_a847_images_may_be_png(root):
    truth = mini_sets.ade847(root)
    for path in (root / "ADE20K_2021_17_01/images_detectron2/validation").iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    assert_same(labels_of(A847), truth)


@pytest.mark.parametrize(("name", "write"), [(A847, "ade847"), (PC459, "context459")])
def test_labels_cut_to_8_bits_are_refused(root, name, write):
    """65535 would have become 255, which is a class."""
    getattr(mini_sets, write)(root)
    record = DatasetCatalog.get(name)[0]
    values = np.asarray(Image.open(record["sem_seg_file_name"])).astype(np.uint8)
    Image.fromarray(values).save(record["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"\.tif has 8 bits per pixel, too few .* have 16"):
        load_semantic_label(record, MetadataCatalog.get(name))


@pytest.mark.parametrize(("value", "name"), [(847, A847), (254, PAS20), (21, PAS21)])
def test_ids_outside_the_list_are_refused(root, value, name):
    """254 is what a plain uint8 - 1 makes of PAS-20's 255."""
    mini_sets.WRITERS[name](root)
    record = DatasetCatalog.get(name)[0]
    values = np.array(Image.open(record["sem_seg_file_name"]))
    values[0, 0] = value
    Image.fromarray(values).save(record["sem_seg_file_name"])
    with pytest.raises(UserError, match=f"label {value} is outside the class list"):
        load_semantic_label(record, MetadataCatalog.get(name))


def test_voc_is_read_from_the_download(root):
    """Only listed images; of 20 classes background and border are both ignored."""
    truth = mini_sets.voc_raw(root)
    assert_same(labels_of(PAS21), truth)
    without_background = {
        stem: np.where((label == 0) | (label == 255), 255, label - 1)
        for stem, label in truth.items()
    }
    assert_same(labels_of(PAS20), without_background)
    mini_sets.voc20(root, count=1)
    assert len(labels_of(PAS20)) == 1


def test_voc_list_names_an_image_without_labels(root):
    mini_sets.voc_raw(root)
    (root / "VOCdevkit/VOC2012/SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(
        UserError, match=r"1 of 2 files are missing .*, the first is 2007_000002\.png"
    ):
        DatasetCatalog.get(PAS21)


def test_cityscapes_from_the_download(root):
    truth = mini_sets.cityscapes(root, prepared=False)
    assert_same(labels_of(CITYSCAPES), truth)
    path, remedy = MetadataCatalog.get(CITYSCAPES).missing_annotations["panoptic_json"]
    assert path == str(root / "cityscapes/gtFine/cityscapes_panoptic_val.json")
    assert remedy == "run: ita datasets prepare cityscapes --split val"


@pytest.mark.parametrize("name", [CITYSCAPES, MAPILLARY])
def test_street_scenes_have_panoptic_files(root, name):
    """The labels from panoptic files agree with the label maps."""
    truth = mini_sets.WRITERS[name](root)
    metadata = MetadataCatalog.get(name)
    for record in DatasetCatalog.get(name):
        assert Path(record["file_name"]).is_file()
        del record["sem_seg_file_name"]
        label = load_semantic_label(record, metadata)
        np.testing.assert_array_equal(label, truth[str(record["image_id"])])
        for segment in record["segments_info"]:
            assert segment["isthing"] == (segment["category_id"] in metadata.thing_ids)


def test_mapillary_images_need_not_be_described(root):
    """Their name is that of the panoptic PNG, their size that of the file."""
    mini_sets.mapillary(root)
    path = root / "mapillary_vistas/validation/panoptic/panoptic_2018.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "images": []}))
    (record, _) = DatasetCatalog.get(MAPILLARY)
    assert Path(record["file_name"]).name == "-AbC_01xyz.jpg"
    mapped = InferenceMapper(min_size=12, max_size=100)(record)
    assert (mapped["height"], mapped["width"]) == mini_sets.SIZE


def test_things_of_the_street_scenes():
    cityscapes, mapillary = map(MetadataCatalog.get, (CITYSCAPES, MAPILLARY))
    assert cityscapes.thing_classes == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ]  # fmt: skip
    assert cityscapes.stuff_dataset_id_to_contiguous_id[33] == 18
    assert len(mapillary.thing_classes) == 37
    assert mapillary.stuff_dataset_id_to_contiguous_id[65] == 64
    stuff = {"curb", "road", "sky", "lane marking", "pothole", "on rails", "ego vehicle"}
    assert stuff.isdisjoint(mapillary.thing_classes)
    assert {"bird", "crosswalk", "other rider", "wheeled slow"} < set(mapillary.thing_classes)


def test_cityscapes_classes_are_detectron2s():
    from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

    metadata = MetadataCatalog.get(CITYSCAPES)
    evaluated = sorted(CITYSCAPES_CATEGORIES, key=lambda category: category["trainId"])
    assert metadata.stuff_classes == [category["name"] for category in evaluated]
    ids = {category["id"]: category["trainId"] for category in evaluated}
    assert metadata.stuff_dataset_id_to_contiguous_id == ids
    assert metadata.thing_ids == tuple(c["trainId"] for c in evaluated if c["isthing"])


def test_test_sizes(root):
    """Each set's own, unless the config gives one."""
    mini_sets.cityscapes(root, count=1)
    mini_sets.voc21(root, count=1)
    for name, shorter in ((CITYSCAPES, 1024), (PAS21, 800)):
        (record,) = DatasetCatalog.get(name)
        own = InferenceMapper.for_dataset(name, min_size=-1, max_size=-1)(record)
        assert min(own["image"].shape[1:]) == shorter
        given = InferenceMapper.for_dataset(name, min_size=48, max_size=-1)(record)
        assert min(given["image"].shape[1:]) == 48
        limited = InferenceMapper.for_dataset(name, min_size=-1, max_size=64)(record)
        assert max(limited["image"].shape[1:]) == 64
        (height, width), greatest = mini_sets.SIZE, MetadataCatalog.get(name).test_size[1]
        assert own["image"].shape[2] == min(round(shorter * width / height), greatest)


def test_fewer_images_than_the_complete_set_are_noticed(root, caplog):
    mini_sets.voc21(root)
    with caplog.at_level(logging.WARNING):
        DatasetCatalog.get(PAS21)
    assert caplog.messages == [f"data set {PAS21} has 2 images, but the complete set has 1449"]


def test_half_prepared_label_maps_are_no_labels(root):
    truth = mini_sets.coco(root)
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    stem = min(truth)
    folder = root / "coco" / "panoptic_semseg_val2017"
    mini_sets.save(truth[stem].astype(np.uint8), folder / f"{stem}.png")
    with pytest.raises(UserError, match=r"1 of 2 files are missing in .*semseg.*first is 0+2\.png"):
        DatasetCatalog.get(name)


def test_json_without_its_pngs_is_as_good_as_none(root):
    mini_sets.cityscapes(root)
    shutil.rmtree(root / "cityscapes/gtFine/cityscapes_panoptic_val")
    assert all("pan_seg_file_name" not in record for record in DatasetCatalog.get(CITYSCAPES))
    assert "panoptic_json" not in vars(MetadataCatalog.get(CITYSCAPES))


def test_a_set_that_is_not_prepared_says_how(root):
    with pytest.raises(UserError) as error:
        DatasetCatalog.get(A847)
    assert "ita datasets prepare ade20k-full --split val" in str(error.value)
    assert f"{root}/ADE20K_2021_17_01/images_detectron2/validation" in str(error.value)
