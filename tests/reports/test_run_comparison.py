import csv
import io
import json
import re
from collections import Counter

import pytest

from ita.reports.comparison_formats import (
    format_comparison_csv,
    format_comparison_html,
    format_comparison_markdown,
)
from ita.reports.run_comparison import compare
from ita.reports.tables import write_results
from tests.reports.page_reader import Page

GRID_COLOR = "#b0b0b0"


def write(folder, miou, *, config="", precision="float32", ious=None, **info):
    """Write results with a class "0:cat" and "1:dog" of the mIoU, unless ``ious`` has others."""
    info = {"class_list": "pc59", "classes": 59, "classes_seen": 40, "images": 10, **info}
    ious = {f"IoU-{k}": v for k, v in (ious or {"0:cat": miou, "1:dog": miou}).items()}
    results = {"pc59": {"info": info, "sem_seg": {"mIoU": miou, "mIoU_seen": miou + 1, **ious}}}
    write_results(results, folder / "results.json", run={"precision": precision})
    (folder / "config.yaml").write_text(config)
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        write(tmp_path / "one", 50.0, config="SEED: 1\nMODEL:\n  A: 2\nOUTPUT_DIR: x\n"),
        write(tmp_path / "<b>|two", 48.5, config="SEED: 7\nMODEL:\n  A: 2\nOUTPUT_DIR: y\n"),
    ]


def test_html_has_values_and_differences(runs):
    page = Page(format_comparison_html(compare(runs)))
    assert page.tables["metrics"] == [
        ["metric [%]", "one", "<b>|two"],
        ["mIoU", "50.00", "48.50 (-1.50)"],
        ["mIoU, seen", "51.00", "49.50 (-1.50)"],
    ]
    assert page.tables["facts"][1:] == [["SEED", "1", "7"]]
    assert "b" not in page.tags
    assert page.addresses == []


def test_markdown_escapes_names(runs):
    text = format_comparison_markdown(compare(runs))
    header, _, first, *_ = [line for line in text.splitlines() if line.startswith("|")]
    assert r"\<b\>\|two" in header
    assert [cell.strip() for cell in first.strip("|").split("|")] == [
        *("pc59", "mIoU", "50.00", "48.50 (-1.50)")
    ]
    assert "Not comparable" not in text


def test_csv_has_full_precision(tmp_path):
    paths = [write(tmp_path / "one", 1 / 3), write(tmp_path / "two", 2 / 3)]
    rows = list(csv.reader(io.StringIO(format_comparison_csv(compare(paths)))))
    assert rows[0] == ["data set", "metric", "seen", "one", "two", "two − one"]
    assert [float(cell) for cell in rows[1][3:]] == [1 / 3, 2 / 3, 1 / 3]


def test_other_class_lists_and_images_are_named(runs, tmp_path):
    other = write(tmp_path / "other", 50.0, class_list="mine.txt", images=9, precision="bfloat16")
    comparison = compare([runs[0], other])
    assert comparison.warnings == [
        "pc59: the class list of other is mine.txt, that of one pc59",
        "pc59: the number of images of other is 9, that of one 10",
    ]
    assert ("precision", ["float32", "bfloat16"]) in comparison.facts
    page = Page(format_comparison_html(comparison))
    assert [text for _, text in page.items] == comparison.warnings
    assert all(w in format_comparison_markdown(comparison) for w in comparison.warnings)


def test_lists_of_one_name_with_other_classes_are_named(runs, tmp_path):
    assert compare(runs).warnings == []
    other = write(tmp_path / "other", 50.0, ious={"0:cat": 50.0, "1:puppy": 50.0})
    (warning,) = compare([runs[0], other]).warnings
    assert warning == (
        "pc59: the class lists of other and one have one name, but not the same classes (2 differ)"
    )


def test_a_data_set_that_only_one_run_has(runs, tmp_path):
    other = tmp_path / "other"
    write_results({"ade": {"sem_seg": {"mIoU": 30.0}}}, other / "results.json")
    comparison = compare([runs[0], other])
    assert comparison.warnings == ["pc59: no results of other", "ade: no results of one"]
    rows = [(r.dataset, r.values, r.differences) for r in comparison.rows]
    assert rows[0] == ("pc59", [50.0, None], [0.0, None])
    assert rows[-1] == ("ade", [None, 30.0], [None, None])


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = [write(tmp_path / "a" / "run", 1.0), write(tmp_path / "b" / "run", 2.0)]
    assert compare(paths).runs == [str(path) for path in paths]


@pytest.fixture
def with_classes(tmp_path):
    """Three runs with results of five classes, of which the last occurs in no image."""
    ious = {
        "one": {"0:a": 50.0, "3:b": 50.0, "4:c": 50.0, "7:<i>": 50.0, "9:e": None},
        "two": {"0:a": 60.0, "3:b": 45.0, "4:c": 50.05, "7:<i>": 50.0, "9:e": None},
        "three": {"0:a": 38.0, "3:b": 58.0, "4:c": 50.0, "7:<i>": 70.0, "9:e": None},
    }
    return [
        write(tmp_path / name, 50.0, ious=ious[name], seen=["3:b", *more])
        for name, more in (("one", []), ("two", []), ("three", ["0:a"]))
    ]


def test_classes_with_the_largest_gains_and_losses(with_classes):
    """A class that gains in one run and loses in another counts by the larger difference."""
    page = Page(format_comparison_html(compare(with_classes)))
    header = ["IoU [%]", "one", "two", "three"]
    assert page.tables["classes-compared"] == [
        header,
        ["<i> 7 unseen", "50.00", "50.00 (+0.00)", "70.00 (+20.00)"],
        ["b 3", "50.00", "45.00 (-5.00)", "58.00 (+8.00)"],
        header,
        ["a 0 seen in some runs", "50.00", "60.00 (+10.00)", "38.00 (-12.00)"],
    ]
    assert "i" not in page.tags


def test_markdown_lists_classes_from_gain_to_loss(with_classes):
    text = format_comparison_markdown(compare(with_classes))
    lines = text.split("## Classes of pc59 with the largest differences")[1].split("\n")
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line]
    assert [row[:2] for row in cells[2:]] == [
        [r"7:\<i\>", "no"],
        ["3:b", "yes"],
        ["0:a", "in some runs"],
    ]


def test_csv_has_all_classes_that_occur(with_classes):
    rows = csv.DictReader(io.StringIO(format_comparison_csv(compare(with_classes))))
    classes = {row["metric"]: row for row in rows if row["metric"].startswith("IoU-")}
    assert list(classes) == ["IoU-0:a", "IoU-3:b", "IoU-4:c", "IoU-7:<i>"]
    assert float(classes["IoU-4:c"]["two − one"]) == pytest.approx(0.05)
    assert [row["seen"] for row in classes.values()] == ["in some runs", "yes", "no", "no"]


def test_of_847_classes_the_first_ten_are_shown(tmp_path):
    ious = [{f"{i}:n{i}": i * factor for i in range(847)} for factor in (0.0, 0.01)]
    paths = [write(tmp_path / str(i), 1.0, ious=values) for i, values in enumerate(ious)]
    comparison = compare(paths)
    rows = Page(format_comparison_html(comparison)).tables["classes-compared"]
    assert [row[0] for row in rows[1:]] == [f"n{i} {i}" for i in range(846, 836, -1)]
    assert format_comparison_csv(comparison).count("IoU-") == 847


def test_equal_runs_have_no_class_tables(runs):
    comparison = compare([runs[0], runs[0]])
    assert "classes-compared" not in Page(format_comparison_html(comparison)).tables
    assert "Classes of" not in format_comparison_markdown(comparison)


def test_a_run_without_config_leaves_the_settings_of_the_others(runs, tmp_path):
    other = write(tmp_path / "other", 50.0)
    (other / "config.yaml").unlink()
    assert compare([*runs, other]).facts == [
        ("config.yaml", ["read", "read", "not readable"]),
        ("SEED", ["1", "7", "–"]),
    ]
    assert compare([other, other]).facts == []


def write_curves(folder, **curves):
    """Write metrics.json with a value of each scalar every 20 iterations."""
    lines = [
        {"iteration": 20 * i + 19, **dict(zip(curves, values, strict=True))}
        for i, values in enumerate(zip(*curves.values(), strict=True))
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))


def test_curves_of_the_runs_are_in_one_chart_per_scalar(runs, tmp_path):
    """With a line style and an entry in the legend for each run with curves."""
    evaluated = write(tmp_path / "evaluated", 50.0)
    write_curves(runs[0], **{"total_loss": [3, 2], "pc59/sem_seg/mIoU": [10, 20]})
    write_curves(runs[1], **{"total_loss": [4, 1], "$b_val$/sem_seg/mIoU": [30, 40]})
    page = Page(format_comparison_html(compare([*runs, evaluated])))
    (svg,) = re.findall("<svg.*</svg>", format_comparison_html(compare(runs)), re.DOTALL)
    texts = re.findall("<text[^>]*>(.*?)</text>", svg, re.DOTALL)
    for title in ("loss", "mIoU [%], pc59", "mIoU [%], $b_val$", "one", "&lt;b&gt;|two"):
        assert texts.count(title) == 1
    assert page.tags.count("svg") == 1
    assert "evaluated" not in texts
    # One color per run: in the loss, in its mIoU and in the legend.
    colors = re.findall(r'<g id="line2d_\d+">\s*<path [^>]*stroke: (#\w+)', svg)
    assert sorted(Counter(c for c in colors if c != GRID_COLOR).values()) == [3, 3]


def test_without_training_there_are_no_charts(runs):
    assert "svg" not in Page(format_comparison_html(compare(runs))).tags
