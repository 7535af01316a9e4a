import json
import math
import os

import numpy as np
import pytest

from ita.errors import UserError
from ita.reports.tables import (
    format_class_table,
    format_seen_table,
    format_table,
    scalars,
    write_results,
)

SEMANTIC = {
    "info": {"class_list": "pc59", "classes": 59, "images": 5104},
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
        "IoU-0:cat": np.float64(5.0),
        "IoU-1:cat": 10.0,
        "IoU-2:dog": math.nan,
    },
    "panoptic_seg": {"PQ": 1.0, "SQ": 2.0, "RQ": 3.0, "PQ_th": math.nan},
    "segm": {"AP": 4.0, "AP50": np.float32(5.0), "AP75": np.int64(6)},
}


OPEN = {
    "info": {"class_list": "toy", "classes": 9, "images": 4},
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


def test_table_has_a_row_per_set_and_says_what_is_missing():
    table = format_table({"a_long_name_val": SEMANTIC, "toy_val": EVERYTHING})
    assert table == (
        "data set         class list  images   mIoU  fwIoU   mACC    pACC    PQ    SQ    RQ"
        "    AP  AP50\n"
        "───────────────  ──────────  ──────  ─────  ─────  ─────  ──────  ────  ────  ────"
        "  ────  ────\n"
        "a_long_name_val  pc59          5104  58.36      -  70.00  100.00     -     -     -"
        "     -     -\n"
        "toy_val          mine.txt         2   7.50   8.25   9.00   10.00  1.00  2.00  3.00"
        "  4.00  5.00"
    )


def test_table_leaves_out_what_no_set_has():
    """Also if it has a NaN."""
    header = format_table({"pc59": SEMANTIC}).splitlines()[0].split()
    assert header == ["data", "set", "class", "list", "images", "mIoU", "mACC", "pACC"]


def test_table_splits_miou_where_there_are_seen_and_unseen_classes():
    closed = {"info": OPEN["info"], "sem_seg": {"mIoU": 1.0, "mIoU_unseen": math.nan}}
    table = format_table({"one": OPEN, "two": closed})
    header, _, one, two = table.splitlines()
    assert header.split()[5:] == ["mIoU", "seen", "unseen", "harmonic", "PQ", "mask", "PQ"]
    assert one.split() == ["one", "toy", "4", "5.00", "6.00", "3.00", "4.00", "1.00", "2.00"]
    assert two.split() == ["two", "toy", "4", "1.00", *"-----"]
    assert "seen" not in format_table({"two": closed})


def test_table_of_seen_and_unseen_classes():
    closed = {"sem_seg": {"mIoU": 1.0, "mIoU_seen": 1.0, "mIoU_unseen": math.nan}}
    assert format_seen_table({"one": OPEN, "two": closed}) == (
        "data set  classes  mIoU  class accuracy  of things  hit rate\n"
        "────────  ───────  ────  ──────────────  ─────────  ────────\n"
        "one       all      5.00            9.00       6.50      7.00\n"
        "one       seen     6.00            9.50       5.50      8.00\n"
        "one       unseen   3.00               -          -      0.00\n"
        "two       all      1.00               -          -         -\n"
        "two       seen     1.00               -          -         -"
    )
    assert format_seen_table({"two": closed}).splitlines()[0].split() == [
        *("data", "set", "classes", "mIoU")
    ]
    assert format_seen_table({"boxes": {"segm": {"AP": 1.0}}}) == ""


def test_class_table_has_the_classes_that_occur():
    table = format_class_table(["cat", "cat", "dog"], EVERYTHING, columns=2)
    assert [line.split() for line in table.splitlines()[::2]] == [
        ["id", "class", "IoU", "id", "class", "IoU"],
        ["0", "cat", "5.00", "1", "cat", "10.00"],
    ]


def test_class_table_runs_down_its_columns():
    names = [f"class{i}" for i in range(7)]
    metrics = {f"IoU-{i}:{name}": 10.0 * i for i, name in enumerate(names)}
    lines = format_class_table(names, {"sem_seg": metrics}, columns=3).splitlines()[2:]
    ids = [[int(word) for word in line.split()[::3]] for line in lines]
    assert ids == [[0, 3, 6], [1, 4], [2, 5]]


def test_class_table_without_classes():
    assert format_class_table(["cat"], {"sem_seg": {}}) == "no class occurs"


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
    assert (semantic["IoU-0:cat"], semantic["IoU-1:cat"]) == (5.0, 10.0)
    assert semantic["IoU-2:dog"] is None
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
