"""The table of merges, seen and unseen classes."""

from ita.classes import ClassList, read_class_list
from ita.reports.coverage import format_coverage

TRAINING = ClassList.from_strings("train", ["building, tower, skyscraper", "dog", "sky", "cat"])
TEST = ClassList(
    "test",
    (("edifice", "building"), ("tower",), ("hill",), ("dog",), ("mount",)),
    label_ids=(3, 7, 8, 20, 21),
)


def cells(name, output):
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [name]]
    return line.split()[1:]


def test_counts_of_each_list():
    output = format_coverage(TRAINING, [TEST, TRAINING])
    assert output.startswith("Class lists, for a model trained with train (4 classes)\n")
    # Classes, seen, unseen, merges, classes merged.
    assert cells("test", output) == ["5", "3", "2", "1", "2"]
    assert cells("train", output) == ["4", "4", "0", "0", "0"]


def test_merges_are_named():
    """Label ids of the file, and the names in question where they are not the first."""
    output = format_coverage(TRAINING, [TRAINING, TEST])
    paragraphs = output.rstrip().split("\n\n")
    assert len(paragraphs) == 3
    assert paragraphs[-1].splitlines() == [
        "test: classes that training with train does not separate:",
        "  building -> 3 edifice (building), 7 tower",
        "  -> leave names of other classes out of train",
    ]
    assert "hill" not in output


def test_unseen_classes_are_listed_on_demand():
    output = format_coverage(TRAINING, [TEST, TRAINING], list_unseen=True)
    assert output.endswith("\ntest: 2 unseen classes:\n  hill, mount\n\ntrain: 0 unseen classes\n")
    long = format_coverage(TRAINING, [read_class_list("ade847")], list_unseen=True)
    assert max(map(len, long.splitlines())) <= 100
