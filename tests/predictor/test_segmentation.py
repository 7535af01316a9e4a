"""The result of ``model.segment``: segments, scores, dominant categories, drawings, exports."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageShow
from pycocotools.coco import COCO

import ita
from ita.errors import UserError
from ita.toy.names import STUFF

DISTRACTORS = ["yellow ring", "white moon"]


@pytest.fixture(scope="module")
def class_list(scene):
    """The classes of the scene and others, with its shapes as things."""
    names = [*scene[2], *DISTRACTORS]
    return ita.ClassList.from_strings(
        "scene", names, [i for i, name in enumerate(names) if name not in STUFF]
    )


@pytest.fixture(scope="module")
def encoded(toy, scene):
    return toy.encode(scene[0])


@pytest.fixture(scope="module")
def panoptic(encoded, class_list):
    return encoded.segment(class_list, panoptic=True)


@pytest.fixture(scope="module")
def instances(encoded, class_list):
    return encoded.segment(class_list, instances=True)


def overlap(mask, other):
    return (mask & other).sum() / (mask | other).sum()


def test_nothing_but_the_label_map_unless_requested(encoded, class_list):
    result = encoded.segment(class_list)
    assert result.scores is None
    assert result.segments is None


def test_scores_are_those_of_the_label_map(encoded, class_list):
    result = encoded.segment(class_list, scores=True)
    assert result.scores.dtype == np.float32
    assert result.scores.shape == (len(class_list), *result.label_map.shape)
    assert (result.scores.argmax(axis=0) == result.label_map).all()


def test_panoptic_segments_are_the_parts_of_the_scene(panoptic, scene, class_list):
    _, labels, names = scene
    assert sorted(segment.name for segment in panoptic.segments) == names
    for segment in panoptic.segments:
        assert class_list.names[segment.class_index] == segment.name
        assert overlap(segment.mask, labels == segment.class_index) > 0.8
        assert segment.is_thing == (segment.name not in STUFF)
    assert np.sum([segment.mask for segment in panoptic.segments], axis=0).max() == 1


def test_instances_are_things(instances, scene):
    names = {segment.name for segment in instances.segments}
    assert names <= {*scene[2], *DISTRACTORS} - set(STUFF)
    shapes = {name for name in scene[2] if name not in STUFF}
    assert {segment.name for segment in instances.segments if segment.score > 0.5} == shapes


@pytest.mark.parametrize("kind", ["panoptic", "instances"])
def test_what_a_segment_tells_of_its_mask(kind, request):
    segments = request.getfixturevalue(kind).segments
    for segment in segments:
        assert segment.mask.dtype == bool
        rows, columns = np.nonzero(segment.mask)
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert segment.box == box
        assert segment.area == len(rows)
    scores = [segment.score for segment in segments]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1


def test_without_marked_things_every_class_is_one(encoded, scene):
    for kind in ("panoptic", "instances"):
        result = encoded.segment(scene[2], **{kind: True})
        assert {segment.name for segment in result.segments} == set(scene[2])
        assert all(segment.is_thing for segment in result.segments)
        assert result.class_list.things == frozenset()


def test_one_kind_of_segments_at_a_time(toy, encoded, class_list):
    for segment in (encoded.segment, lambda *a, **k: toy.segment(encoded.image, *a, **k)):
        with pytest.raises(UserError, match="request one of them"):
            segment(class_list, panoptic=True, instances=True)


def test_a_list_of_images_has_the_same_results(toy, scene, class_list, panoptic):
    flipped = scene[0][:, ::-1]
    _, result, narrow = toy.segment(
        [flipped, scene[0], scene[0][:, :90]], class_list, panoptic=True, scores=True
    )
    assert [s.name for s in result.segments] == [s.name for s in panoptic.segments]
    assert result.scores.shape == (len(class_list), 144, 144)
    assert narrow.scores.shape == (len(class_list), 144, 90)
    for (name, probability), expected in zip(result.dominant, panoptic.dominant, strict=True):
        assert name == expected.name
        assert probability == pytest.approx(expected.probability, abs=1e-4)


def test_dominant_categories_are_the_most_likely_names(toy, encoded, scene):
    """Of all synonyms and "other", by the softmax of CLIP's cosines."""
    classes = [f"{name}, my {name}" for name in [*scene[2], *DISTRACTORS] * 2]
    result = encoded.segment(classes)
    names = [*(name for text in classes for name in text.split(", ")), "other"]
    assert len(result.dominant) == toy.model.dominant.num_dominant < len(names)
    image = F.normalize(encoded.features.embedding, dim=-1)
    text = toy._text.encode(names)
    scale = toy.model.backbone.logit_scale.exp()
    probabilities = (scale * image @ text.T).softmax(-1)[0]
    expected = probabilities.sort(descending=True, stable=True)
    count = len(result.dominant)
    told = torch.tensor([category.probability for category in result.dominant])
    torch.testing.assert_close(told, expected.values[:count])
    assert [c.name for c in result.dominant] == [names[i] for i in expected.indices[:count]]


def test_the_result_keeps_the_image_as_it_was(toy, scene):
    image = scene[0].copy()
    result = toy.segment(image, ["red circle", "grass"])
    image[:] = 0
    assert (result.image == scene[0]).all()


@pytest.mark.parametrize("kind", [None, "panoptic", "instances"])
@pytest.mark.parametrize(
    ("suffix", "expected"),
    [(".png", "PNG"), (".JPG", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP")],
)
def test_drawings_in_every_format(encoded, class_list, kind, suffix, expected, tmp_path):
    result = encoded.segment(class_list, **{kind: True} if kind else {})
    path = tmp_path / "new folder" / f"drawing{suffix}"
    result.save(path)
    with Image.open(path) as image:
        assert image.format == expected
        assert image.size == result.to_image().size


@pytest.mark.parametrize("name", ["drawing.bmp", "drawing", "drawing.png.exe"])
def test_drawings_in_unknown_formats(panoptic, name, tmp_path):
    with pytest.raises(UserError, match=r"pictures are \.png, \.jpg, \.jpeg, \.webp files"):
        panoptic.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_notebooks_show_the_drawing(panoptic):
    with Image.open(io.BytesIO(panoptic._repr_png_())) as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == np.asarray(panoptic.to_image())).all()


def test_show_opens_the_viewer(panoptic, monkeypatch):
    shown = []

    class Viewer(ImageShow.Viewer):
        def show_image(self, image, **options):
            shown.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    panoptic.show()
    (image,) = shown
    assert image.size == panoptic.to_image().size


def test_drawings_show_the_segments(panoptic, instances):
    for result in (panoptic, instances):
        classes, ids = result.drawn_maps()
        covered = np.any([segment.mask for segment in result.segments], axis=0)
        assert ((classes >= 0) == covered).all()
        assert ((ids > 0) == covered).all()
        first = result.segments[0]  # the best one lies above all others
        assert (classes[first.mask] == first.class_index).all()
        plain = replace(result, segments=None)
        assert plain.drawn_maps()[1] is None
        drawn, without = np.asarray(result.to_image()), np.asarray(plain.to_image())
        assert drawn.shape != without.shape or (drawn != without).any()


def test_label_pngs_are_read_back(panoptic, tmp_path):
    panoptic.to_label_png(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert (np.asarray(image) == panoptic.label_map).all()


def test_coco_annotations_are_read_by_pycocotools(panoptic, tmp_path):
    annotations = panoptic.to_coco(image_id=7)
    categories = {a["category_id"]: a["category_name"] for a in annotations}
    content = {
        "images": [{"id": 7, "height": 144, "width": 144}],
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
        "annotations": annotations,
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    coco = COCO(str(tmp_path / "instances.json"))
    loaded = coco.loadAnns(coco.getAnnIds(imgIds=7))
    assert len(loaded) == len(panoptic.segments)
    for annotation, segment in zip(loaded, panoptic.segments, strict=True):
        assert (coco.annToMask(annotation) == segment.mask).all()
        assert annotation["category_id"] == segment.class_index
        assert annotation["category_name"] == segment.name
        assert annotation["score"] == segment.score
        assert annotation["area"] == mask_util.area(annotation["segmentation"])
        assert annotation["bbox"] == mask_util.toBbox(annotation["segmentation"]).tolist()


def test_json_tells_everything(panoptic, class_list):
    content = json.loads(json.dumps(panoptic.to_json()))
    assert (content["height"], content["width"]) == panoptic.label_map.shape
    pixels = [entry["pixels"] for entry in content["classes"]]
    assert pixels == sorted(pixels, reverse=True)
    assert sum(entry["fraction"] for entry in content["classes"]) == pytest.approx(1)
    for entry in content["classes"]:
        assert class_list.names[entry["index"]] == entry["name"]
        assert entry["pixels"] == (panoptic.label_map == entry["index"]).sum()
    assert [(d["name"], d["probability"]) for d in content["dominant"]] == list(panoptic.dominant)
    for entry, segment in zip(content["segments"], panoptic.segments, strict=True):
        assert (mask_util.decode(entry.pop("mask")) == segment.mask).all()
        assert entry.pop("box") == list(segment.box)
        assert entry == {key: getattr(segment, key) for key in entry}
        assert entry.keys() == {"class_index", "name", "score", "area", "is_thing"}


def test_json_without_segments(encoded, class_list):
    assert encoded.segment(class_list).to_json()["segments"] is None


@pytest.mark.parametrize("method", ["to_coco", "to_supervision"])
def test_exports_of_segments_that_were_not_requested(encoded, class_list, method):
    with pytest.raises(UserError, match=f"{method} needs segments.* panoptic=True or instances"):
        getattr(encoded.segment(class_list), method)()


def test_supervision_takes_the_segments(panoptic, instances):
    supervision = pytest.importorskip("supervision")
    for result in (panoptic, instances):
        detections = result.to_supervision()
        assert isinstance(detections, supervision.Detections)
        assert len(detections) == len(result.segments)
        for i, segment in enumerate(result.segments):
            assert tuple(detections.xyxy[i]) == segment.box
            assert (detections.mask[i] == segment.mask).all()
            assert detections.confidence[i] == np.float32(segment.score)
            assert detections.class_id[i] == segment.class_index
            assert detections["class_name"][i] == segment.name


def test_an_image_without_segments(scene, tmp_path):
    model = ita.load(overrides=["MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "1.0"])
    result = model.segment(scene[0], scene[2], panoptic=True)
    assert result.segments == ()
    assert result.to_coco() == []
    assert result.to_json()["segments"] == []
    result.save(tmp_path / "nothing.png")
    supervision = pytest.importorskip("supervision")
    assert result.to_supervision() == supervision.Detections.empty()


def test_without_supervision_one_line_says_so(panoptic, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="not installed: pip install supervision"):
        panoptic.to_supervision()
