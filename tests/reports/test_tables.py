import json
import math
import os

import numpy as np
import pytest

from ita.classes import ClassList
from ita.errors import UserError
from ita.reports.tables import (
    COLUMNS,
    format_class_table,
    format_table,
    scalars,
    write_results,
)

SEMANTIC = {
    "info": {
        "class_list": "pc59",
        "classes": 59,
        "classes_seen": 40,
        "train_class_list": "coco133",
        "images": 5104,
    },
    "sem_seg": {"mIoU": 58.361, "fwIoU": math.nan, "mACC": 70.0, "pACC": 100.0},
}
EVERYTHING = {
    "info": {"class_list": "lists/mine.txt", "classes": 3, "images": 2},
    "sem_seg": {
        "mIoU": 7.5,
        "fwIoU": 8.25,
        "mACC": 9.0,
        "pACC": 10.0,
        "classes_present": 2,
        "IoU-1:cat": np.float64(5.0),
        "IoU-4:cat": 10.0,
        "IoU-90:dog": math.nan,
    },
    "panoptic_seg": {"PQ": 1.0, "SQ": 2.0, "RQ": 3.0, "PQ_th": math.nan},
    "segm": {"AP": 4.0, "AP50": np.float32(5.0), "AP75": np.int64(6)},
}


OPEN = {
    "info": {
        "class_list": "toy",
        "classes": 9,
        "classes_seen": 7,
        "train_class_list": "lists/mine.txt",
        "images": 4,
    },
    "sem_seg": {"mIoU": 5.0, "mIoU_seen": 6.0, "mIoU_unseen": 3.0, "mIoU_harmonic": 4.0},
    "panoptic_seg": {
        "PQ": 1.0,
        "mask_PQ": 2.0,
        "class_accuracy": 9.0,
        "class_accuracy_seen": 9.5,
        "class_accuracy_unseen": math.nan,
        "class_accuracy_th": 6.5,
        "class_accuracy_th_seen": 5.5,
        "class_accuracy_th_unseen": math.nan,
    },
    "dominant": {
        "hit_rate": 7.0,
        "hit_rate_seen": 8.0,
        "hit_rate_unseen": 0.0,
        "num_dominant": 20,
    },
}


def test_table_has_rows_per_set_and_says_what_is_missing():
    table = format_table({"a_long_name_val": SEMANTIC, "toy_val": EVERYTHING})
    assert table == (
        "classes       mIoU  fwIoU   mACC    pACC    PQ    SQ    RQ    AP  AP50\n"
        "───────  ──  ─────  ─────  ─────  ──────  ────  ────  ────  ────  ────\n"
        "a_long_name_val: 5,104 images, class list pc59, training class list coco133\n"
        "  all    59  58.36      -  70.00  100.00     -     -     -     -     -\n"
        "toy_val: 2 images, class list mine.txt\n"
        "  all         7.50   8.25   9.00   10.00  1.00  2.00  3.00  4.00  5.00"
    )


def test_table_leaves_out_what_no_set_has():
    """Also if it has a NaN."""
    header = format_table({"pc59": SEMANTIC}).splitlines()[0].split()
    assert header == ["classes", "mIoU", "mACC", "pACC"]


def test_table_has_seen_and_unseen_classes_once_each():
    closed = {
        "info": {**OPEN["info"], "classes_seen": 9},
        "sem_seg": {"mIoU": 1.0, "mIoU_seen": 1.0, "mIoU_unseen": math.nan},
    }
    assert format_table({"one": OPEN, "two": closed}) == (
        "classes      mIoU  harmonic    PQ  mask PQ  class acc.  of things  hit rate\n"
        "────────  ─  ────  ────────  ────  ───────  ──────────  ─────────  ────────\n"
        "one: 4 images, class list toy, training class list mine.txt\n"
        "  all     9  5.00      4.00  1.00     2.00        9.00       6.50      7.00\n"
        "  seen    7  6.00                                 9.50       5.50      8.00\n"
        "  unseen  2  3.00                                    -          -      0.00\n"
        "two: 4 images, class list toy, training class list mine.txt\n"
        "  all     9  1.00         -     -        -           -          -         -\n"
        "  seen    9  1.00"
    )


def test_table_of_everything_fits_a_wide_terminal():
    """With the longest name of a data set, and large numbers."""
    tasks = ("sem_seg", "panoptic_seg", "segm", "dominant")
    full = {task: {m: 100.0 for _, t, m in COLUMNS if t == task} for task in tasks}
    info = {**SEMANTIC["info"], "classes": 847}
    table = format_table(
        {"openvocab_coco_2017_train_panoptic_with_sem_seg": {"info": info, **full}}
    )
    assert table.count("100.00") == len(COLUMNS)
    assert max(map(len, table.splitlines())) <= 140


def test_class_table_has_the_classes_that_occur():
    class_list = ClassList("mine", (("cat",), ("cat",), ("dog",)), label_ids=(1, 4, 90))
    table = format_class_table(class_list, EVERYTHING, columns=2)
    assert [line.split() for line in table.splitlines()[::2]] == [
        ["id", "class", "IoU", "id", "class", "IoU"],
        ["1", "cat", "5.00", "4", "cat", "10.00"],
    ]


def test_class_table_runs_down_its_columns():
    names = [f"class{i}" for i in range(7)]
    metrics = {f"IoU-{i}:{name}": 10.0 * i for i, name in enumerate(names)}
    class_list = ClassList.from_strings("seven", names)
    lines = format_class_table(class_list, {"sem_seg": metrics}, columns=3).splitlines()[2:]
    ids = [[int(word) for word in line.split()[::3]] for line in lines]
    assert ids == [[0, 3, 6], [1, 4], [2, 5]]


def test_class_table_without_classes():
    assert (
        format_class_table(ClassList.from_strings("one", ["cat"]), {"sem_seg": {}})
        == "no class occurs"
    )


def test_scalars_are_finite_numbers_without_single_classes():
    assert scalars(EVERYTHING) == {
        "sem_seg/mIoU": 7.5,
        "sem_seg/fwIoU": 8.25,
        "sem_seg/mACC": 9.0,
        "sem_seg/pACC": 10.0,
        "sem_seg/classes_present": 2,
        "panoptic_seg/PQ": 1.0,
        "panoptic_seg/SQ": 2.0,
        "panoptic_seg/RQ": 3.0,
        "segm/AP": 4.0,
        "segm/AP50": 5.0,
        "segm/AP75": 6.0,
    }
    more = scalars(OPEN)
    assert more["sem_seg/mIoU_unseen"] == 3.0
    assert more["panoptic_seg/class_accuracy_seen"] == 9.5
    assert "panoptic_seg/class_accuracy_unseen" not in more
    assert more["dominant/hit_rate_unseen"] == 0.0


def test_json_holds_everything_and_null_for_nan(tmp_path):
    path = tmp_path / "new/results.json"
    run = {"config": "a.yaml", "weights": tmp_path / "model.pth"}
    write_results({"pc59": SEMANTIC, "toy": EVERYTHING}, path, run=run)

    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["run"] == {"config": "a.yaml", "weights": str(tmp_path / "model.pth")}
    assert content["date"].startswith("20")
    assert content["results"]["pc59"]["info"] == SEMANTIC["info"]
    assert content["results"]["pc59"]["sem_seg"]["fwIoU"] is None
    semantic = content["results"]["toy"]["sem_seg"]
    assert (semantic["IoU-1:cat"], semantic["IoU-4:cat"]) == (5.0, 10.0)
    assert semantic["IoU-90:dog"] is None
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results({"toy": EVERYTHING}, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"results\.json: No space left"):
        write_results({"toy": SEMANTIC}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_who_reads_the_old_file_reads_all_of_it(tmp_path):
    path = tmp_path / "results.json"
    write_results({"toy": EVERYTHING}, path)
    with path.open() as reader:
        write_results({"toy": SEMANTIC}, path)
        assert json.load(reader)["results"]["toy"]["segm"]["AP"] == 4.0
    assert "segm" not in json.loads(path.read_text())["results"]["toy"]


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"results\.json"):
        write_results({"toy": SEMANTIC}, tmp_path / "file/results.json")
