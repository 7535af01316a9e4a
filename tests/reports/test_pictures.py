import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from ita.classes import ClassList
from ita.reports.pictures import (
    Panel,
    distinct_names,
    draw_picture,
    legend_entries,
    write_picture,
)
from tests.evaluation.scenes import perfect_prediction, random_prediction


def colors_in(picture, title_height=30):
    return {tuple(color) for color in picture[title_height:].reshape(-1, 3).tolist()}


def swatches(picture, metadata):
    """Ids of the classes whose color stands unmixed in the picture, as it does in the legend."""
    found = colors_in(picture)
    return {i for i, color in enumerate(metadata.stuff_colors) if tuple(color) in found}


def test_legend_has_the_classes_of_prediction_and_truth(scenes):
    record = scenes.records[0]
    true = {s["category_id"] for s in record["segments_info"]}
    perfect = draw_picture(record, perfect_prediction(record), scenes.metadata)
    # Class 4 stands for nothing in a perfect prediction: void's pixels have to be some class.
    assert swatches(perfect, scenes.metadata) == true | {4}
    panoptic_only = {"panoptic_seg": perfect_prediction(record)["panoptic_seg"]}
    picture = draw_picture(record, panoptic_only, scenes.metadata)
    assert swatches(picture, scenes.metadata) == true


def panels(picture, count=3):
    """Rows of the panels that are clear of titles and legend, uint8 [60, w, 3] each."""
    step = (picture.shape[1] - 8) // count
    return [picture[60:120, 8 + i * step : i * step + step] for i in range(count)]


def test_prediction_and_truth_look_alike_when_they_are(scenes):
    record = scenes.records[2]
    right = {"panoptic_seg": perfect_prediction(record)["panoptic_seg"]}
    image, prediction, truth = panels(draw_picture(record, right, scenes.metadata))
    assert (prediction == truth).all()
    assert (image != truth).any()
    wrong = random_prediction(record)
    _, prediction, truth = panels(draw_picture(record, wrong, scenes.metadata))
    assert (prediction != truth).any(axis=-1).mean() > 0.1


def test_segments_are_outlined(scenes):
    record = scenes.records[0]
    prediction = perfect_prediction(record)
    with_outlines = panels(draw_picture(record, prediction, scenes.metadata))[1]
    del prediction["panoptic_seg"]
    without = panels(draw_picture(record, prediction, scenes.metadata))[1]
    changed = (with_outlines != without).any(axis=-1)
    assert 0 < changed.mean() < 0.2
    assert (with_outlines[changed] == 255).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_outlines_run_in_both_directions(scenes, tmp_path, axis):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((400, 400, 3), dtype=np.uint8)).save(path)
    ids = torch.ones(400, 400, dtype=torch.int32)
    ids.narrow(axis, 200, 200).fill_(2)
    segments = [{"id": i, "isthing": True, "category_id": 0} for i in (1, 2)]
    prediction = {"panoptic_seg": (ids, segments)}
    picture = draw_picture({"file_name": str(path)}, prediction, scenes.metadata)
    left = picture.shape[1] // 2 + 4
    panel = picture[-440:-40, left : left + 400]
    white = (panel == 255).all(axis=-1).mean(axis=1 - axis)
    assert (white[100:300] == 1).sum() == 1


def test_legend_orders_by_size_and_tells_where_a_class_is():
    prediction = Panel("prediction", np.array([[0, 1, 1, 3]]))
    truth = Panel("ground truth", np.array([[1, 1, -1, 2]]))
    colors = np.arange(12, dtype=np.uint8).reshape(4, 3)
    entries = legend_entries([prediction, truth], ["cat", "sky", "dog", "fox"], colors)
    assert [(name, note) for _, name, note in entries] == [
        ("sky", ""),
        ("cat", "prediction only"),
        ("dog", "ground truth only"),
        ("fox", "prediction only"),
        ("no class", ""),
    ]
    assert [color for color, _, _ in entries[:2]] == [(3, 4, 5), (0, 1, 2)]


def test_legend_tells_what_training_did_not_see():
    panel = Panel("prediction", np.array([[0, 1, 2, 3, -1]]))
    colors = np.zeros((4, 3), np.uint8)
    entries = legend_entries(
        [panel], ["cat", "sky", "dog", "fox"], colors, [True, True, False, False]
    )
    names = [name for _, name, _ in entries]
    assert names == ["cat", "sky", "dog (unseen)", "fox (unseen)", "no class"]


def test_repeated_names_are_told_apart_by_label_id(scenes):
    assert distinct_names(["cat", "sky", "cat"], [1, 7, 9]) == ["cat (1)", "sky", "cat (9)"]
    # The legend of a data set has the ids of its class list file.
    record, output = scenes.records[0], random_prediction(scenes.records[0])
    other = dataclasses.replace(scenes.class_list, label_ids=tuple(range(70, 76)))
    own = draw_picture(record, output, scenes.metadata)
    assert (own == draw_picture(record, output, scenes.metadata, scenes.class_list)).all()
    changed = draw_picture(record, output, scenes.metadata, other)
    assert own.shape != changed.shape or (own != changed).any()


def test_legend_does_not_grow_without_end():
    panel = Panel("prediction", np.arange(847)[None])
    entries = legend_entries([panel], [f"n{i}" for i in range(847)], np.zeros((847, 3), np.uint8))
    assert len(entries) == 61
    assert entries[-1][1] == "and 787 more"


def test_record_without_truth_gets_two_panels(scenes):
    record = {"file_name": scenes.records[0]["file_name"]}
    prediction = perfect_prediction(scenes.records[0])
    two = draw_picture(record, prediction, scenes.metadata)
    three = draw_picture(scenes.records[0], prediction, scenes.metadata)
    for panel, same in zip(panels(two, 2), panels(three, 3), strict=False):
        assert (panel == same).all()


@pytest.mark.parametrize(
    ("size", "panel"),
    [
        ((32, 128), (96, 384)),
        ((800, 1333), (480, 800)),
        ((427, 640), (427, 640)),
        ((9, 2), (360, 80)),
    ],
)
def test_panels_have_a_readable_size(scenes, tmp_path, size, panel):
    path = tmp_path / "image.jpg"
    Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)).save(path)
    labels = torch.zeros(size, dtype=torch.int64)
    labels[:1] = 1
    picture = draw_picture({"file_name": str(path)}, {"label_map": labels}, scenes.metadata)
    black = (picture == 0).all(axis=-1)
    assert black.any(axis=1).sum() == pytest.approx(panel[0], abs=2)
    assert panel[1] <= black.any(axis=0).sum() <= panel[1] * 2 + 16
    assert picture.shape[1] <= 2 * panel[1] + 250


def test_legend_of_a_narrow_image_is_not_cut_off(scenes, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((60, 3, 3), dtype=np.uint8)).save(path)
    names = [f"WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW{i}" for i in range(6)]
    class_list = ClassList.from_strings("wide", names)
    prediction = {"label_map": torch.zeros(60, 3, dtype=torch.int64)}
    picture = draw_picture({"file_name": str(path)}, prediction, scenes.metadata, class_list)
    assert (picture[:, -4:] == 255).all()


def test_saved_png_is_the_picture(scenes, tmp_path):
    path = tmp_path / "new/picture.png"
    record = scenes.records[0]
    picture = draw_picture(record, perfect_prediction(record), scenes.metadata)
    write_picture(picture, path)
    assert picture.dtype == np.uint8
    assert (np.array(Image.open(path)) == picture).all()
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
