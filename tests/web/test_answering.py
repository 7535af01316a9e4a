"""From a question to the picture, the legend and the files."""

import json
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ita.classes import palette
from ita.errors import UserError
from ita.reports.pictures import draw_segmentation
from ita.web.answering import INSTANCES, MODES, PANOPTIC, SEMANTIC, Question, answer
from ita.web.downloads import write_downloads
from ita.web.examples import draw_examples
from ita.web.limits import Limits, read_classes
from ita.web.presets import preset_names, preset_text
from ita.web.regions import regions_of
from ita.web.views import encode_map, render_answer, render_error, render_status

LIMITS = Limits()


@pytest.fixture(scope="module")
def asked(toy, scene):
    """The answers to one question in each mode, by mode, of one kept image."""
    path, masks = scene
    kept, answers = None, {}
    for mode in MODES:
        question = Question(str(path), "\n".join(masks), mode)
        answers[mode], kept = answer(toy, LIMITS, question, kept)
    return answers


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_new_classes_on_the_same_image_run_the_decoder_only(toy, scene, monkeypatch):
    path, masks = scene
    first, kept = answer(toy, LIMITS, Question(str(path), "\n".join(masks)))
    monkeypatch.setattr(toy.model, "encode_images", None)
    second, same = answer(toy, LIMITS, Question(str(path), "grass\nwater"), kept)
    assert (first.reused, second.reused) == (False, True)
    assert same is kept
    assert second.segmentation.names == ("grass", "water")


def test_another_image_is_encoded(toy, scene, tmp_path):
    _, kept = answer(toy, LIMITS, Question(str(scene[0]), "grass"))
    other = draw_examples(tmp_path)[0]
    found, kept = answer(toy, LIMITS, Question(other.image, other.classes), kept)
    assert not found.reused
    assert kept.path == other.image
    expected = toy.segment(other.image, other.classes.splitlines())
    assert (found.segmentation.label_map == expected.label_map).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "no image"),
        ({"classes": ""}, "no classes"),
        ({"mode": "depth"}, "mode is 'depth'; it must be semantic, panoptic, instances"),
    ],
)
def test_incomplete_questions_are_refused(change, message, toy, scene):
    question = {"image": str(scene[0]), "classes": "grass", "mode": SEMANTIC}
    with pytest.raises(UserError, match=message):
        answer(toy, LIMITS, Question(**{**question, **change}))


@pytest.mark.parametrize("mode", MODES)
def test_regions_are_where_the_objects_are(mode, asked, scene):
    regions = regions_of(asked[mode].segmentation)
    encoded = encode_map(regions).astype(int)
    ids = encoded[..., 0] + 256 * encoded[..., 1]
    for name in ("striped arrow", "yellow star", "blue arrow"):
        numbers = [i for i, region in enumerate(regions.names, start=1) if region == name]
        assert overlap(np.isin(ids, numbers), scene[1][name]) > 0.85, name
        assert encoded[..., 2][np.isin(ids, numbers)].mean() > 100
    assert (ids == regions.ids).all()


def test_the_legend_has_areas_in_the_colors_of_the_label_map(asked, scene):
    legend = regions_of(asked[SEMANTIC].segmentation).legend
    assert [row.fraction for row in legend] == sorted((r.fraction for r in legend), reverse=True)
    assert sum(row.fraction for row in legend) == pytest.approx(1)
    for row in legend:
        assert row.fraction == pytest.approx(scene[1][row.name].mean(), abs=0.02)
        assert row.color == palette(len(scene[1]))[list(scene[1]).index(row.name)]
        assert row.segments is None


def test_segments_are_counted(asked):
    segmentation = asked[PANOPTIC].segmentation
    counts = {row.name: row.segments for row in regions_of(segmentation).legend}
    names = [segment.name for segment in segmentation.segments]
    assert counts == {name: names.count(name) for name in names}


def test_instances_below_the_minimum_score_are_left_out(toy, scene):
    path, masks = scene
    found = {}
    for least in (0.0, 0.5, 1.0):
        question = Question(str(path), "\n".join(masks), INSTANCES, least)
        found[least] = answer(toy, LIMITS, question)[0].segmentation.segments
    assert len(found[0.0]) > len(found[0.5]) > len(found[1.0]) == 0
    assert min(segment.score for segment in found[0.5]) >= 0.5


def test_nothing_found_is_said(toy, scene):
    question = Question(str(scene[0]), "grass", INSTANCES, 1.0)
    assert "Nothing found" in render_answer(answer(toy, LIMITS, question)[0])


def test_without_a_budget_for_scores_the_picture_has_none(toy, scene, monkeypatch):
    monkeypatch.setattr("ita.web.answering.MAX_SCORES", 10)
    found, _ = answer(toy, LIMITS, Question(str(scene[0]), "grass\nwater"))
    assert regions_of(found.segmentation).scores is None
    assert 'data-scored="0"' in render_answer(found)


def test_names_are_escaped(toy, scene):
    name = '<img src=x onerror="alert(1)">${1}{{2}}'
    found, _ = answer(toy, LIMITS, Question(str(scene[0]), name))
    page = render_answer(found) + render_error(UserError(f"no {name}"))
    images = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "img":
                images.append(dict(attributes))

    Reader().feed(page)
    assert [image["alt"] for image in images] == ["The image"]
    assert name in unescape(page)


def test_the_status_tells_size_time_and_what_ran(asked):
    text = " ".join(render_status(asked[PANOPTIC]).split())
    assert "320 × 240 pixels, 5 classes, " in text
    assert "the image was encoded before" in text


def test_large_pictures_are_reduced_for_the_page_only(toy, tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (1600, 40), "green").save(path)
    found, _ = answer(toy, LIMITS, Question(str(path), "grass"))
    assert "--ratio: 1600 / 40" in render_answer(found)
    with Image.open(write_downloads(found, tmp_path).label_map) as labels:
        assert labels.size == (1600, 40)


def test_files_for_download(asked, scene, tmp_path):
    found = asked[PANOPTIC]
    files = write_downloads(found, tmp_path)
    assert [Path(file).name for file in files] == [
        "my scene_labels.png",
        "my scene_overlay.png",
        "my scene_result.json",
    ]
    segmentation = found.segmentation
    with Image.open(files.label_map) as labels:
        assert (np.asarray(labels) == segmentation.label_map).all()
    with Image.open(files.overlay) as overlay:
        classes, segments = segmentation.drawn_maps()
        expected = draw_segmentation(segmentation.image, classes, segmentation.names, segments)
        assert (np.asarray(overlay) == expected).all()
    content = json.loads(Path(files.description).read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(segmentation.to_json()))
    assert write_downloads(found, tmp_path).label_map != files.label_map


def test_presets_are_texts_that_the_page_accepts(toy, scene):
    sizes = {name: len(read_classes(preset_text(name), LIMITS)) for name in preset_names()}
    assert (sizes["ade150"], sizes["ade847"], sizes["coco133"]) == (150, 847, 133)
    found, _ = answer(toy, LIMITS, Question(str(scene[0]), preset_text("toy")))
    present = {row.name for row in regions_of(found.segmentation).legend}
    assert {"blue arrow", "yellow star", "water", "wood floor"} <= present


def test_a_file_is_no_preset(tmp_path):
    file = tmp_path / "secret.txt"
    file.write_text("1: secret")
    with pytest.raises(UserError, match="no class list"):
        preset_text(str(file))


def test_examples_show_what_they_name(toy, tmp_path):
    for example in draw_examples(tmp_path):
        found, _ = answer(toy, LIMITS, Question(example.image, example.classes))
        assert len({row.name for row in regions_of(found.segmentation).legend}) == len(
            example.classes.splitlines()
        )
