"""``ita datasets check``: class lists against the training list."""

import re
from collections import Counter

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ita.classes import read_class_list
from ita.cli import main
from tests.data import mini_sets


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty root of data sets; exit code and output."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))

    def run(*words):
        code = main(["datasets", "check", *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def counts(name, output):
    """Classes, seen, unseen, merges, classes merged."""
    (line,) = re.findall(rf"^{re.escape(str(name))} +([\d ]+)$", output, re.MULTILINE)
    return [int(word) for word in line.split()]


@pytest.fixture
def lists(tmp_path):
    """A training list that merges two classes of a test list."""
    training, test = tmp_path / "training.txt", tmp_path / "test.txt"
    training.write_text("0:invalid_class_id\n1:hill,mountain\n2:sky\n")
    test.write_text("1: mountain\n5: hill, mound\n6: sea\n")
    return training, test


def test_any_two_files_without_data(check, lists):
    training, test = lists
    code, output = check("--training", training, "--vocabulary", test)
    assert code == 0
    assert counts(test, output) == [3, 2, 1, 1, 2]
    assert "\n  hill -> 1 mountain, 5 hill\n" in output
    assert "Data sets" not in output
    code, output = check("--training", test, "--vocabulary", training, "--vocabulary", "pc59")
    assert counts(training, output) == [2, 1, 1, 0, 0]
    assert counts("pc59", output)[0] == 59
    assert "->" not in output


def test_unseen_names_are_listed(check, lists):
    training, test = lists
    _, output = check("--training", training, "--vocabulary", test, "--unseen")
    assert "1 unseen classes:\n  sea\n" in output


def test_lists_of_the_chosen_sets_against_cocos(check, tmp_path):
    """Once for both splits; below the state of the data, which decides the exit code."""
    code, output = check("pas20", "ade20k")
    assert code == 1
    for name in ("pas20", "ade150"):
        seen = read_class_list(name).seen(read_class_list("coco133"))
        assert counts(name, output)[:3] == [len(seen), sum(seen), len(seen) - sum(seen)]
        assert counts(name, output)[3:] == [0, 0]
    assert Counter(output.split())["coco133"] == 1
    assert output.index("Data sets in") < output.index("Class lists")
    mini_sets.voc20(tmp_path / "root")
    assert check("pas20", "--split", "val", "--subset")[0] == 0


def test_merges_do_not_change_the_exit_code(check, lists, tmp_path):
    training, test = lists
    mini_sets.voc20(tmp_path / "root")
    options = ("--split", "val", "--subset", "--training", training, "--vocabulary", test)
    code, output = check("pas20", *options)
    assert code == 0
    assert counts(test, output)[3] == 1
    assert "openvocab_pascal20_sem_seg_val" in output
    assert re.search("^pas20 ", output, re.MULTILINE) is None


def test_a_list_of_ones_own_data(check, tmp_path):
    (tmp_path / "classes.txt").write_text("1: cat\n2: axolotl\n")
    file = tmp_path / "own.yaml"
    file.write_text("lists_own: {class_list: classes.txt, image_root: i, label_root: l}\n")
    try:
        _, output = check(file)
    finally:
        DatasetCatalog.remove("lists_own")
        MetadataCatalog.remove("lists_own")
    assert counts(tmp_path / "classes.txt", output) == [2, 1, 1, 0, 0]


@pytest.mark.parametrize("option", ["--training", "--vocabulary"])
def test_a_missing_list_is_named_in_one_line(check, option):
    code, output = check(option, "none.txt")
    assert code == 1
    assert output == "error: cannot read class list none.txt: No such file or directory\n"


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("a150", ["ade20k"]),
        ("ade20k-full", ["a847"]),
        ("pascal-context", ["pc59", "pc459"]),
        ("pascal-voc", ["pas20", "pas21"]),
        ("coco-semantic", ["coco"]),
    ],
)
def test_other_names_of_data_sets(check, name, families):
    assert check(name) == check(*families)


def test_an_unknown_data_set(check):
    code, output = check("a15")
    assert code == 1
    assert "unknown data set a15; did you mean a150?" in output
