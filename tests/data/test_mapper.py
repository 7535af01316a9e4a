import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from ita.data.mapper import InferenceMapper, TrainingMapper
from ita.data.reading import load_semantic_label
from ita.errors import UserError
from tests.data.mini import DOG, GRASS, PERSON, SKY, random_image


def plain(image_size: int, **changes) -> TrainingMapper:
    """A mapper without randomness, unless changed."""
    options = {"min_scale": 1.0, "max_scale": 1.0, "flip": "none", "pad": True, **changes}
    return TrainingMapper(MetadataCatalog.get("mini"), image_size=image_size, **options)


def left_right(height: int, width: int):
    """An image whose left half is white, and its panoptic ids: 1 on the white half, 2 beside."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 255
    ids = np.full((height, width), 2)
    ids[:, : width // 2] = 1
    return image, ids, {1: (PERSON, 0), 2: (SKY, 0)}


def test_same_size_is_untouched_and_padded(quarters):
    (record,) = quarters.register()
    mapped = plain(60)(record)
    assert mapped["image"].shape == (3, 60, 60)
    assert mapped["image"].dtype == torch.uint8
    assert mapped["valid_size"] == (40, 60)
    truth = random_image(40, 60).transpose(2, 0, 1)
    np.testing.assert_array_equal(mapped["image"][:, :40], truth)
    assert (mapped["image"][:, 40:] == 128).all()
    assert (mapped["height"], mapped["width"]) == (40, 60)
    assert mapped["file_name"] == record["file_name"]
    assert mapped["image_id"] == 0


def test_without_padding_the_image_is_as_at_inference(quarters):
    (record,) = quarters.register()
    mapped = plain(30, pad=False)(record)
    assert mapped["valid_size"] == mapped["image"].shape[1:] == (20, 30)
    assert mapped["instances"].image_size == (20, 30)
    as_at_inference = InferenceMapper(min_size=20, max_size=30)(record)["image"]
    # But for the rounding of PyTorch's resizing in training, and PIL's at inference.
    assert (mapped["image"].int() - as_at_inference.int()).abs().max() <= 2


def test_crowd_and_void_are_no_targets(quarters):
    (record,) = quarters.register()
    instances = plain(60)(record)["instances"]
    assert instances.image_size == (60, 60)
    assert instances.gt_classes.tolist() == [PERSON, GRASS]
    assert instances.gt_classes.dtype == torch.int64
    expected = torch.zeros(2, 60, 60, dtype=torch.bool)
    expected[0, :20, :30] = True
    expected[1, 20:40, 30:] = True
    assert torch.equal(instances.gt_masks.dense(), expected)


def test_no_randomness_without_jitter_and_flip(quarters):
    (record,) = quarters.register()
    mapper = plain(47)
    first, second = mapper(record), mapper(record)
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["instances"].gt_masks.dense(), second["instances"].gt_masks.dense())


def test_image_and_masks_flip_together(panoptic):
    panoptic.add(*left_right(20, 32))
    (record,) = panoptic.register()
    mapper = plain(32, flip="horizontal")
    white_at_left = set()
    for _ in range(20):
        mapped = mapper(record)
        mask = mapped["instances"].gt_masks.dense()[0]
        assert torch.equal(mapped["image"][0] == 255, mask)
        assert (mapped["image"][:, 20:] == 128).all()
        white_at_left.add(bool(mask[0, 0]))
    assert white_at_left == {True, False}


@pytest.mark.parametrize("shape", [(31, 47), (47, 31), (5, 100), (64, 64), (1, 90)])
@pytest.mark.parametrize("scales", [(0.1, 2.0), (2.0, 2.0), (0.1, 0.1)])
def test_jitter_keeps_image_masks_and_valid_size_together(panoptic, shape, scales):
    height, width = shape
    panoptic.add(*left_right(height, width))
    (record,) = panoptic.register()
    mapper = plain(64, min_scale=scales[0], max_scale=scales[1])
    for _ in range(10):
        mapped = mapper(record)
        masks = mapped["instances"].gt_masks.dense()
        assert mapped["image"].shape == (3, 64, 64)
        assert masks.shape == (2, 64, 64)
        valid_height, valid_width = mapped["valid_size"]
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[:valid_height, :valid_width] = True
        # Every pixel of the image, and none of the padding, is in exactly one segment.
        assert torch.equal(masks.sum(dim=0), inside.long())
        assert (mapped["image"][:, ~inside] == 128).all()
        # Interpolation blurs the edge of the white half by about a pixel of the file.
        blur = (mapped["image"][0] > 5) & (mapped["image"][0] < 250) & inside
        agree = (mapped["image"][0] > 127) == masks[0]
        assert agree[inside & ~blur].all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_scale_is_relative_to_the_square(panoptic, scale):
    panoptic.add(*left_right(30, 60))
    (record,) = panoptic.register()
    height, width = plain(80, min_scale=scale, max_scale=scale)(record)["valid_size"]
    assert width == min(80, 80 * scale)
    assert height == min(80, 40 * scale)


def test_segments_that_the_crop_cuts_away_stay_as_empty_targets(panoptic):
    image, ids, segments = left_right(40, 40)
    ids[:2, -2:] = 3
    panoptic.add(image, ids, {**segments, 3: (DOG, 0)})
    (record,) = panoptic.register()
    mapper = plain(40, min_scale=2.0, max_scale=2.0)
    empty = 0
    for _ in range(10):
        instances = mapper(record)["instances"]
        assert instances.gt_classes.tolist() == [PERSON, SKY, DOG]
        empty += not instances.gt_masks.dense()[2].any()
    assert empty >= 5


def test_semantic_targets_are_the_classes_in_the_crop(semantic):
    label = np.full((20, 30), 9, np.uint8)
    label[:10, :10], label[10:, :10] = 255, 3
    (record,) = semantic([label])
    mapped = plain(30)(record)
    instances = mapped["instances"]
    assert instances.gt_classes.tolist() == [DOG, GRASS]
    expected = torch.zeros(2, 30, 30, dtype=torch.bool)
    expected[0, 10:20, :10] = True
    expected[1, :20, 10:] = True
    assert torch.equal(instances.gt_masks.dense(), expected)
    assert (mapped["height"], mapped["width"]) == (20, 30)


def test_semantic_crop_without_a_label_has_no_targets(semantic):
    label = np.full((20, 20), 255, np.uint8)
    label[0, -1] = 3
    (record,) = semantic([label])
    mapper = plain(20, min_scale=2.0, max_scale=2.0)
    counts = {len(mapper(record)["instances"]) for _ in range(10)}
    assert 0 in counts
    assert mapper.num_skipped.value == 0


def test_semantic_and_panoptic_records_give_the_same_masks(panoptic, semantic):
    ids = np.random.default_rng(0).integers(0, 5, (33, 50))
    values = np.uint8([255, 1, 3, 7, 9])[ids]
    (semantic_record,) = semantic([values])
    from_semantic = plain(77)(semantic_record)["instances"]
    panoptic.add(random_image(33, 50), ids, {i + 1: (i, 0) for i in range(4)})
    (panoptic_record,) = panoptic.register()
    from_panoptic = plain(77)(panoptic_record)["instances"]
    assert torch.equal(from_semantic.gt_classes, from_panoptic.gt_classes)
    assert torch.equal(from_semantic.gt_masks.dense(), from_panoptic.gt_masks.dense())


@pytest.mark.parametrize("count", [255, 256, 300])
def test_many_segments_are_resized_as_few_are(panoptic, count):
    """Labels of 16 bits follow the same rule as those of 8, the one that images follow."""
    ids = 1 + np.arange(20 * 30).reshape(20, 30) % count
    panoptic.add(random_image(20, 30), ids, dict.fromkeys(range(1, count + 1), (SKY, 0)))
    (record,) = panoptic.register()
    mapped = plain(75)(record)
    resized = Image.fromarray(ids.astype(np.float32)).resize((75, 50), Image.Resampling.NEAREST)
    expected = np.zeros((75, 75))
    expected[:50] = np.asarray(resized)
    masks = mapped["instances"].gt_masks.dense()
    assert len(masks) == count
    numbered = (masks * torch.arange(1, count + 1)[:, None, None]).sum(dim=0)
    np.testing.assert_array_equal(numbered, expected)


def test_masks_travel_as_one_map(panoptic):
    """A byte per pixel for up to 255 segments, whatever their number."""
    for count, size in ((255, 1), (256, 4)):
        ids = 1 + np.arange(20 * 30).reshape(20, 30) % count
        panoptic.add(random_image(20, 30), ids, dict.fromkeys(range(1, count + 1), (SKY, 0)))
        mapped = plain(30)(panoptic.register()[-1])
        index = mapped["instances"].gt_masks.index
        assert index.shape == (30, 30)
        assert index.element_size() == size


def test_all_tensors_of_a_record_are_pinned(quarters, monkeypatch):
    """What a data loader with ``pin_memory`` does to a batch."""
    pinned = set()
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self, *_: (pinned.add(self.data_ptr()), self.clone())[1]
    )
    (record,) = quarters.register()
    mapped = plain(30)(record)
    truth = mapped["instances"]
    tensors = (mapped["image"], truth.gt_classes, truth.gt_masks.index)
    (batch,) = pin_memory([mapped])
    assert {tensor.data_ptr() for tensor in tensors} == pinned
    assert torch.equal(batch["instances"].gt_masks.dense(), truth.gt_masks.dense())
    assert batch["instances"].image_size == truth.image_size


def test_image_without_a_usable_pixel_is_skipped_and_counted(panoptic, semantic):
    ids = np.zeros((8, 8), np.int64)
    panoptic.add(random_image(8, 8), ids, {})
    panoptic.add(random_image(8, 8), ids + 1, {1: (DOG, 1)})
    panoptic.add(random_image(8, 8), ids + 1, {1: (DOG, 0)})
    records = panoptic.register()
    mapper = plain(8)
    assert [mapper(record) is None for record in records] == [True, True, False]
    assert mapper.num_skipped.value == 2


def test_semantic_image_without_a_usable_pixel_is_skipped(semantic):
    (record,) = semantic([np.full((8, 8), 255, np.uint8)])
    mapper = plain(8)
    assert mapper(record) is None
    assert mapper.num_skipped.value == 1


def test_sizes_that_disagree(quarters):
    (record,) = quarters.register()
    with pytest.raises(
        UserError, match=r"000\.png is \(60, 40\) \(width, height\), not \(61, 40\)"
    ):
        plain(60)({**record, "width": 61})
    Image.fromarray(np.zeros((40, 59, 3), np.uint8)).save(record["pan_seg_file_name"])
    with pytest.raises(
        UserError, match=r"is \(60, 40\) \(width, height\), but its labels are \(59, 40\)"
    ):
        plain(60)(record)


@pytest.mark.parametrize(
    "options", [{"flip": "vertical"}, {"min_scale": 0.0}, {"min_scale": 3.0, "max_scale": 2.0}]
)
def test_impossible_options(options):
    with pytest.raises(UserError):
        plain(60, **options)


def test_inference_resizes_and_keeps_the_record(quarters):
    (record,) = quarters.register()
    mapped = InferenceMapper(min_size=80, max_size=1333)(record)
    expected = Image.fromarray(random_image(40, 60)).resize((120, 80), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(mapped["image"], np.asarray(expected).transpose(2, 0, 1))
    assert mapped["image"].dtype == torch.uint8
    assert (mapped["height"], mapped["width"]) == (40, 60)
    assert mapped["segments_info"] == record["segments_info"]
    assert mapped["pan_seg_file_name"] == record["pan_seg_file_name"]


@pytest.mark.parametrize(
    ("size", "expected"),
    # Hand-computed: 800 / 427 · 640 = 1199.06; 427 · 1333 / 999 = 569.76; 2.5 rounds up.
    [((427, 640), (800, 1199)), ((427, 999), (570, 1333)), ((999, 427), (1333, 570))],
)
def test_inference_sizes(tmp_path, size, expected):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    mapped = InferenceMapper(min_size=800, max_size=1333)({"file_name": str(path)})
    assert mapped["image"].shape == (3, *expected)
    assert (mapped["height"], mapped["width"]) == size


def test_inference_rounds_half_up(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    mapped = InferenceMapper(min_size=2, max_size=100)({"file_name": str(path)})
    assert mapped["image"].shape == (3, 2, 3)


def test_real_coco_images(samples):
    """Targets of the real images against a decoding of our own, pixel by pixel."""
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    content = json.loads((samples / "coco/annotations/panoptic_val2017.json").read_text())
    categories = sorted(category["id"] for category in content["categories"])
    mapper = TrainingMapper(
        metadata, image_size=640, min_scale=1, max_scale=1, flip="none", pad=True
    )
    assert len(records) == len(content["annotations"]) == 2
    for record, annotation in zip(records, content["annotations"], strict=True):
        png = samples / "coco/panoptic_val2017" / annotation["file_name"]
        color = np.asarray(Image.open(png)).astype(int)
        ids = color @ [1, 256, 65536]
        infos = annotation["segments_info"]
        kept = [info for info in infos if not info["iscrowd"]]
        assert 0 < len(kept) < len(infos)
        mapped = mapper(record)
        height, width = ids.shape
        assert mapped["valid_size"] == (height, width)
        instances = mapped["instances"]
        assert len(instances) == len(kept)
        truth = np.full(ids.shape, 255)
        for info in infos:
            truth[ids == info["id"]] = categories.index(info["category_id"])
        np.testing.assert_array_equal(load_semantic_label(record, metadata), truth)
        for info, class_id, mask in zip(
            kept, instances.gt_classes, instances.gt_masks.dense(), strict=True
        ):
            assert class_id == categories.index(info["category_id"])
            np.testing.assert_array_equal(mask[:height, :width], ids == info["id"])
            assert mask.sum() == info["area"]


def test_real_ade_images(samples):
    name = "openvocab_ade20k_panoptic_train"
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    assert [record["image_id"] for record in records] == [
        "ADE_train_00016869",
        "ADE_train_00016900",
    ]
    mapper = TrainingMapper(
        metadata, image_size=256, min_scale=0.5, max_scale=2, flip="horizontal", pad=True
    )
    for record in records:
        raw = np.asarray(Image.open(record["sem_seg_file_name"])).astype(int)
        truth = np.where(raw == 0, 255, raw - 1)
        np.testing.assert_array_equal(load_semantic_label(record, metadata), truth)
        present = set(np.unique(truth[truth != 255]).tolist())
        assert {"sky", "building", "road"} <= {metadata.stuff_classes[i] for i in present}
        assert set(mapper(record)["instances"].gt_classes.tolist()) <= present
