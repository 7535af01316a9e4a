import json

import pytest

from ita.cli import main

RESULTS = {"results": {"pc59": {"sem_seg": {"mIoU": 50.0}}}}


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(RESULTS))
    return folder


@pytest.mark.parametrize(
    ("name", "words", "start"),
    [
        ("a.html", [], "<!DOCTYPE html>"),
        ("a.md", [], "# Comparison"),
        ("a.csv", [], "data set,"),
        ("a.txt", ["--format", "csv"], "data set,"),
        ("new/a", [], "# Comparison"),
    ],
)
def test_the_suffix_selects_the_format(name, words, start, run_folder, tmp_path, capsys):
    output = tmp_path / name
    assert main(["compare", str(run_folder), "--output", str(output), *words]) == 0
    assert output.read_text().startswith(start)
    assert capsys.readouterr().out == f"Comparison: {output}\n"


def test_what_is_not_comparable_is_said_in_every_format(run_folder, tmp_path, capsys):
    other = tmp_path / "results.json"
    other.write_text(json.dumps({"results": {"ade": {"sem_seg": {"mIoU": 1.0}}}}))
    for words in ([], ["--format", "csv"], ["--output", str(tmp_path / "a.html")]):
        assert main(["compare", str(run_folder), str(other), *words]) == 0
        assert "not comparable: pc59: no results of" in capsys.readouterr().err


def test_without_output_it_is_printed(run_folder, capsys):
    assert main(["compare", str(run_folder), str(run_folder / "results.json")]) == 0
    assert "50.00 (+0.00)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "is damaged: it is not JSON"),
        ("[]", 'it has no object "results"'),
        ('{"results": {"a": 1}}', "a is not an object"),
        ('{"results": {"a": {"sem_seg": []}}}', "sem_seg of a is not an object"),
        ('{"results": {"a": {"segm": {"AP": "x"}}}}', "segm of a has a metric that is not a"),
        ('{"results": {"a": {"segm": {"AP": NaN}}}}', "segm of a has a metric that is not a"),
        ('{"results": {}, "run": 1}', '"run" is not an object'),
    ],
)
def test_damaged_files_are_one_line(content, said, run_folder, tmp_path, capsys):
    damaged = tmp_path / "results.json"
    if content is not None:
        damaged.write_text(content)
    output = tmp_path / "a.html"
    assert main(["compare", str(run_folder), str(damaged), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert said in error
    assert str(damaged) in error
    assert not output.exists()
