import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ita.classes import ClassList
from ita.errors import UserError
from ita.evaluation.semantic import most_confused, semantic_metrics
from ita.reports.curves import read_curves
from ita.reports.run_report import write_report
from ita.reports.tables import write_results
from tests.reports.page_reader import Page

NAMES = ["grass", "<script>alert(1)</script>", "sky & sea", "absent"]
CONFUSION = np.array([[60, 20, 0, 0], [5, 5, 10, 0], [0, 0, 100, 0], [0, 0, 0, 0]])
SEEN = (True, False, True, False)


@pytest.fixture
def results():
    class_list = ClassList.from_strings("four", NAMES)
    return {
        "a_val": {
            "info": {
                "class_list": "four",
                "classes": 4,
                "classes_seen": 2,
                "seen": ["0:grass", "2:sky & sea"],
                "train_class_list": "training",
                "images": 1234,
            },
            "sem_seg": semantic_metrics(CONFUSION, class_list, SEEN),
            "confusions": {"pairs": most_confused(CONFUSION, class_list)},
            "dominant": {"hit_rate": 81.255, "hit_rate_seen": math.nan, "num_dominant": 20},
        }
    }


@pytest.fixture
def report(tmp_path, results):
    """Writes the results and the report of a run; the page."""

    def write(run=None, **more):
        write_results(results, tmp_path / "results.json", run=run or {"weights": "a/model.pth"})
        return Page(write_report(tmp_path, **more).read_text())

    return write


def test_metrics_are_those_of_the_results(report, results):
    rows = report().tables["metrics"]
    assert rows[0] == ["metric [%]", "all4 classes", "seen2 classes", "unseen2 classes"]
    metrics = results["a_val"]["sem_seg"]
    expected = [f"{metrics[k]:.2f}" for k in ("mIoU", "mIoU_seen", "mIoU_unseen")]
    assert ["mIoU", *expected] in rows
    assert ["pACC", f"{metrics['pACC']:.2f}", "", ""] in rows
    assert ["hit rate", f"{81.255:.2f}", "", ""] in rows


def test_classes_are_by_iou_with_unseen_ones_marked(report, results):
    page, metrics = report(), results["a_val"]["sem_seg"]
    ious = {name: metrics[f"IoU-{i}:{name}"] for i, name in enumerate(NAMES[:3])}
    assert [kind for kind, _ in page.items] == [None, None, "unseen"]
    for (_, text), name in zip(page.items, sorted(ious, key=ious.get, reverse=True), strict=True):
        assert text.startswith(name)
        assert text.split()[-1] == f"{ious[name]:.2f}"
    assert "3 of 4 occur" in page.text


def test_confused_classes_are_pairs_of_the_matrix(report):
    assert report().tables["confusions"][1:] == [
        ["1:<script>alert(1)</script>", "2:sky & sea", "50.00", "10"],
        ["0:grass", "1:<script>alert(1)</script>", "25.00", "20"],
        ["1:<script>alert(1)</script>", "0:grass", "25.00", "5"],
    ]


def test_the_run_is_described(report):
    run = {
        "weights": "a/<b>.pth",
        "precision": "float32",
        "iteration": 1500,
        "selected_by": {"metric": "a_val/sem_seg/mIoU", "value": 41.237},
        "train_class_list": "training",
        "train_class_list_from": "the checkpoint",
        "versions": {"torch": "2.12"},
        "command": "ita evaluate --config-file '<i>.yaml'",
    }
    page = report(run, config="SEED: 1 # <b>")
    for text in (
        *("a/<b>.pth", "float32", "1,500", "a_val/sem_seg/mIoU = 41.24", "torch 2.12"),
        *("training, from the checkpoint", run["command"], "SEED: 1 # <b>", "1,234 images"),
        "20 per image; 81.25 % of the classes",
    ):
        assert text in page.text


@pytest.fixture
def picture(tmp_path, results):
    """Writes a picture and names it among the results."""

    def write(choice, image, **entry):
        file = f"{choice}_{Path(image).stem}.png"
        path = tmp_path / "inference" / "a_val" / "pictures" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3000, 60)).save(path)
        entries = results["a_val"].setdefault("pictures", {}).setdefault(choice, [])
        entries.append({"image": image, "file": file, **entry})
        return path

    return write


def test_nothing_is_fetched_or_run(report, picture, tmp_path):
    picture("worst", "'><script>.png", score=12.0)
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "total_loss": 3.5}\n')
    page = report()
    assert page.tags.count("img") == page.tags.count("svg") == 1
    assert {"script", "link", "iframe", "b"}.isdisjoint(page.tags)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)


def test_curves_are_those_of_the_training_so_far(report, tmp_path):
    """With this evaluation, which metrics.json does not have yet, and without broken lines."""
    lines = [
        {"iteration": 19, "total_loss": 3.5, "a_val/sem_seg/mIoU": 7.0, "lr": 0.1},
        {"iteration": 39, "total_loss": 2.5, "$b_val$/sem_seg/mIoU": math.nan},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '[1]\n{"iteration": 59, "tot'
    (tmp_path / "metrics.json").write_text(text)
    assert read_curves(tmp_path / "metrics.json") == {
        "total_loss": {20: 3.5, 40: 2.5},
        "a_val/sem_seg/mIoU": {20: 7.0},
    }
    page = report({"weights": "", "iteration": 40, "during_training": True})
    assert page.text.count("loss") == page.text.count("mIoU [%]") == 1
    assert "iteration" in page.text
    assert "training started from" in page.text


def test_worst_images_come_first_with_their_scores(report, picture):
    picture("first", "a.jpg")
    picture("best", "b.jpg", score=98.765)
    picture("worst", "c.jpg", score=1.234)
    page = report()
    captions = ("Worst images", "c.jpg: mIoU 1.23", "Best images", "b.jpg: mIoU 98.77")
    positions = [page.text.index(text) for text in (*captions, "First images")]
    assert positions == sorted(positions)
    assert page.tags.count("img") == 3
    assert ["open" in a for a in page.attributes["details"][-3:]] == [True, False, False]


def test_without_scores_nothing_is_said_of_them(report, picture):
    picture("first", "a.jpg")
    page = report()
    assert "a.jpg" in page.text
    assert "mIoU of an image" not in page.text


def test_only_pictures_of_these_results(report, results, picture, tmp_path):
    """Neither files of an earlier evaluation, nor what has been deleted or lies elsewhere."""
    picture("first", "earlier.jpg")
    del results["a_val"]["pictures"]
    assert "img" not in report().tags
    picture("best", "deleted.jpg", score=1.0).unlink()
    Image.new("RGB", (3, 3)).save(tmp_path / "elsewhere.png")
    results["a_val"]["pictures"]["first"] = [{"image": "x", "file": "../../../elsewhere.png"}]
    page = report()
    assert "img" not in page.tags
    assert "images" not in page.text.replace("1,234 images", "")


def test_results_of_earlier_versions(report, results):
    """Without confused pairs and the names of the seen classes."""
    del results["a_val"]["confusions"], results["a_val"]["info"]["seen"]
    page = report()
    assert "confusions" not in page.tables
    assert len(page.items) == 3
    assert {kind for kind, _ in page.items} == {None}


def test_847_classes_are_folded(report, results):
    assert "open" in report().attributes["details"][0]
    ious = {f"IoU-{i}:class {i}": i / 10 for i in range(847)}
    results["a_val"]["sem_seg"] = {"mIoU": 42.3, **ious}
    page = report()
    assert "open" not in page.attributes["details"][0]
    assert len(page.items) == 847
    assert page.items[0][1].startswith("class 846")


def test_damaged_results_are_an_error(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
