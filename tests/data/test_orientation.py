"""Images with EXIF orientation and their labels, in training and evaluation."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from ita.data.checking import check_record
from ita.data.headers import header_problem
from ita.data.mapper import InferenceMapper, TrainingMapper
from ita.data.orientation import Orientation
from ita.data.reading import load_semantic_label, read_image, read_label_values
from ita.data.registration import register_custom
from ita.errors import UserError
from ita.evaluation.instance import InstanceEvaluator
from ita.evaluation.truth import GroundTruth
from tests.data.mini import CLASSES

ORIENTATION = 0x0112
# By the definition in EXIF: the sides of the scene that the first row and column of the file show.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
TRANSPOSED = (5, 6, 7, 8)
SHAPES = {"oblong": (20, 32), "square": (24, 24)}


def exif(orientation):
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def make_set(root, orientation, shape, *, kind="panoptic", made="stored", key="", suffix=".png"):
    """Register the set "mini": an image with a tag, and labels made of the stored or upright one.

    Returns:
        Its record, metadata, and (as stored) the classes, 4 where void.
    """
    height, width = shape
    classes = np.full(shape, 4, np.uint8)
    classes[: height // 2, : width // 3], classes[height // 2 :, : width // 4] = 0, 1
    classes[2:5, width - 9 :] = 3
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.repeat(classes[..., None] * 60, 3, 2)).save(
        root / "images" / f"1{suffix}", exif=exif(orientation)
    )
    labels = UPRIGHT[orientation](classes) if made == "upright" else classes
    values = np.uint8([1, 3, 7, 9, 255])[labels]
    keys = {"class_list": "classes.txt", "image_root": "images"}
    if kind == "panoptic":
        values = np.where(values == 255, 0, values)
        Image.fromarray(np.stack([values, values * 0, values * 0], -1)).save(root / "labels/1.png")
        image = {"id": 1, "file_name": f"1{suffix}"}
        image |= {"height": labels.shape[0], "width": labels.shape[1]}
        segments = [{"id": i, "category_id": i, "iscrowd": 0} for i in (1, 3, 9)]
        annotation = {"image_id": 1, "file_name": "1.png", "segments_info": segments}
        content = {"images": [image], "annotations": [annotation], "categories": []}
        (root / "panoptic.json").write_text(json.dumps(content))
        keys |= {"panoptic_root": "labels", "panoptic_json": "panoptic.json", "things": ["dog"]}
    else:
        Image.fromarray(values).save(root / "labels" / "1.png")
        keys |= {"label_root": "labels"}
    (root / "classes.txt").write_text(CLASSES)
    if key:
        keys["label_orientation"] = key
    (root / "mini.yaml").write_text(json.dumps({"mini": keys}))
    register_custom([root / "mini.yaml"])
    (record,) = DatasetCatalog.get("mini")
    return record, MetadataCatalog.get("mini"), classes.astype(np.int64)


def training_classes(record, metadata):
    """Image and class of each pixel as in training, 4 where void."""
    mapper = TrainingMapper(
        metadata, image_size=32, min_scale=1, max_scale=1, flip="none", pad=True
    )
    mapped = mapper(record)
    height, width = mapped["valid_size"]
    labels = np.full((32, 32), 4)
    instances = mapped["instances"]
    for class_id, mask in zip(
        instances.gt_classes.tolist(), instances.gt_masks.dense(), strict=True
    ):
        labels[mask.numpy() > 0] = class_id
    return mapped["image"].numpy()[0, :height, :width], labels[:height, :width]


def check_all(record, metadata, expected):
    """Compare training, evaluation and the check of data sets with the expected classes."""
    np.testing.assert_array_equal(read_image(record["file_name"])[..., 0], expected * 60)
    void = np.where(expected == 4, 255, expected)
    np.testing.assert_array_equal(load_semantic_label(record, metadata), void)
    mapped = InferenceMapper(min_size=0, max_size=0)(record)
    assert (mapped["height"], mapped["width"]) == expected.shape
    truth = GroundTruth(metadata, metadata.class_list)
    np.testing.assert_array_equal(truth.classes(mapped), np.where(expected == 4, -1, expected))
    if "pan_seg_file_name" in record:
        ids = truth.segment_ids(record["pan_seg_file_name"], mapped)
        np.testing.assert_array_equal(ids, np.int32([1, 3, 7, 9, 0])[expected])
    assert check_record(record, metadata).problem == ""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_of_stored_pixels_are_turned(orientation, kind, shape, tmp_path):
    record, metadata, classes = make_set(tmp_path, orientation, SHAPES[shape], kind=kind)
    check_all(record, metadata, UPRIGHT[orientation](classes))
    assert header_problem(record) == ""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_upright_labels_of_a_set_that_says_so(orientation, kind, shape, tmp_path):
    record, metadata, classes = make_set(
        tmp_path, orientation, SHAPES[shape], kind=kind, made="upright", key="upright"
    )
    check_all(record, metadata, UPRIGHT[orientation](classes))


@pytest.mark.parametrize("orientation", TRANSPOSED)
@pytest.mark.parametrize(("made", "key"), [("upright", "stored"), ("stored", "upright")])
def test_sizes_that_tell_come_first(orientation, made, key, tmp_path):
    record, metadata, classes = make_set(
        tmp_path, orientation, SHAPES["oblong"], made=made, key=key
    )
    check_all(record, metadata, UPRIGHT[orientation](classes))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_training_pixels_and_labels_belong_together(orientation, shape, tmp_path):
    record, metadata, classes = make_set(tmp_path, orientation, SHAPES[shape])
    image, labels = training_classes(record, metadata)
    scale = 32 // max(SHAPES[shape]) if shape == "oblong" else 0
    if scale == 1:
        np.testing.assert_array_equal(labels, UPRIGHT[orientation](classes))
        np.testing.assert_array_equal(image, UPRIGHT[orientation](classes) * 60)
    else:  # resized: all but the borders
        assert (np.abs(image / 60 - labels) < 0.2).mean() > 0.8


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_tiff(orientation, tmp_path):
    """Which Pillow turns itself."""
    record, metadata, classes = make_set(tmp_path, orientation, SHAPES["oblong"], suffix=".tif")
    check_all(record, metadata, UPRIGHT[orientation](classes))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_in_gray(orientation, shape, compression, dtype, tmp_path):
    """Whose pixels Pillow may map from the file, and then turns as if they were upright."""
    path = tmp_path / "gray.tif"
    pixels = np.arange(SHAPES[shape][0] * SHAPES[shape][1]).reshape(SHAPES[shape]).astype(dtype)
    image = Image.fromarray(pixels)
    image.save(path, compression=compression, tiffinfo={ORIENTATION: orientation})
    upright = UPRIGHT[orientation](pixels)
    expected = upright if dtype == "uint8" else np.round(upright / 257)
    np.testing.assert_array_equal(read_image(str(path))[..., 0], expected)
    labels = read_label_values(str(path), Orientation(None, upright.shape))
    np.testing.assert_array_equal(labels, upright)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("image_orientation", [1, 3, 6])
@pytest.mark.parametrize("shape", SHAPES)
def test_label_maps_with_an_orientation_of_their_own(
    orientation, image_orientation, shape, tmp_path
):
    record, metadata, classes = make_set(
        tmp_path, image_orientation, SHAPES[shape], kind="semantic"
    )
    upright = UPRIGHT[image_orientation](classes)
    stored = next(
        turn(upright)
        for turn in UPRIGHT.values()
        if np.array_equal(UPRIGHT[orientation](turn(upright)), upright)
    )
    values = np.uint8([1, 3, 7, 9, 255])[stored]
    Image.fromarray(values).save(record["sem_seg_file_name"], exif=exif(orientation))
    if orientation == 1:  # which is no turn: as without a tag
        return
    check_all(record, metadata, upright)
    assert header_problem(record) == ""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("made", ["stored", "upright"])
@pytest.mark.parametrize("shape", SHAPES)
def test_instances(orientation, made, shape, tmp_path):
    """A perfect detection of a polygon on stored or upright pixels."""
    record, metadata, classes = make_set(tmp_path, orientation, SHAPES[shape], made=made, key=made)
    labels = UPRIGHT[orientation](classes) if made == "upright" else classes
    (y0, y1), (x0, x1) = ((v.min(), v.max() + 1) for v in np.nonzero(labels == 1))
    polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
    image = {"id": 1, "height": labels.shape[0], "width": labels.shape[1]}
    content = {
        "images": [image],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "iscrowd": 0,
                "area": int((labels == 1).sum()),
            }
            | {"segmentation": [[float(v) for v in polygon]], "bbox": [0, 0, 1, 1]}
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    metadata.set(json_file=str(path))
    upright = UPRIGHT[orientation](classes)
    found = Instances(upright.shape)
    found.pred_masks = torch.from_numpy((upright == 1)[None].copy())
    found.scores, found.pred_classes = torch.ones(1), torch.ones(1, dtype=torch.int64)
    evaluator = InstanceEvaluator(metadata)
    evaluator.process([InferenceMapper(min_size=0, max_size=0)(record)], [{"instances": found}])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_other_sizes_are_still_errors(tmp_path):
    record, metadata, _ = make_set(tmp_path, 6, (20, 32), kind="semantic")
    Image.new("L", (20, 31), 1).save(record["sem_seg_file_name"])
    finding = check_record(record, metadata)
    assert finding.problem == (
        f"{record['file_name']} is (20, 32) (width, height), but its labels are (31, 20)"
    )


def test_the_key_is_checked(tmp_path):
    with pytest.raises(
        UserError, match="label_orientation is 'turned'; it must be stored or uprig"
    ):
        make_set(tmp_path, 1, (8, 8), key="turned")
