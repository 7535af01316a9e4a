import csv
import io

import pytest

from ita.reports.run_comparison import (
    compare,
    format_comparison_csv,
    format_comparison_html,
    format_comparison_markdown,
)
from ita.reports.tables import write_results
from tests.reports.page_reader import Page


def write(folder, miou, *, config="", precision="float32", classes=("cat", "dog"), **info):
    info = {"class_list": "pc59", "classes": 59, "classes_seen": 40, "images": 10, **info}
    ious = {f"IoU-{i}:{name}": miou for i, name in enumerate(classes)}
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
    assert rows[0] == ["data set", "metric", "one", "two", "two − one"]
    assert [float(cell) for cell in rows[1][2:]] == [1 / 3, 2 / 3, 1 / 3]


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
    other = write(tmp_path / "other", 50.0, classes=("cat", "puppy"))
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
