import itertools
import json
import logging

import pytest

from ita.classes import (
    CLASS_LISTS,
    ClassList,
    Merge,
    choose_classes,
    merges,
    note_repetitions,
    palette,
    parse_class_list,
    read_class_list,
)
from ita.data.registration import class_list_for, register_semantic
from ita.errors import UserError
from ita.toy.dataset import CLASS_LISTS as TOY_CLASS_LISTS


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "classes.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_classes_stand_in_id_order_with_gaps_comments_and_blanks(write):
    path = write("# a comment\n7: dog , puppy\n\n  \n2:cat\n100: Zimmer,  ,Küche\n")
    class_list = read_class_list(path)
    assert class_list.classes == (("cat",), ("dog", "puppy"), ("Zimmer", "Küche"))
    assert class_list.name == str(path)
    assert sorted(parse_class_list(path)) == [2, 7, 100]


def test_published_format_drops_ids_that_are_no_class(write):
    path = write("0:invalid_class_id\n1:person,child\n2:invalid_class_id\n3:sky\n")
    assert read_class_list(path).classes == (("person", "child"), ("sky",))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_and_line_ends(write, mark, newline):
    path = write(mark + newline.join(["0: cat", "1: dog"]).encode())
    assert read_class_list(path).names == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        ("0: cat\ndog\n", 2, "dog"),
        ("0: cat\n1:\n", 2, "no name"),
        ("0: cat\n1: ,,\n", 2, "no name"),
        ("0: cat\n: dog\n", 2, "dog"),
        ("0: cat\n-1: dog\n", 2, "-1"),
        ("3: cat\n\n3: dog\n", 3, "line 1"),
        ("0: cat, kitten\n5: dog\n6: cat,kitten\n", 3, "line 1"),
        (b"0: cat\n1: dog\n2: caf\xe9\n", 3, "UTF-8"),
    ],
)
def test_bad_lines_are_named(write, content, line, word):
    path = write(content)
    with pytest.raises(UserError) as error:
        read_class_list(path)
    assert f"{path}:{line}:" in str(error.value)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "\n# nothing\n", "0:invalid_class_id\n"])
def test_empty_list(write, content):
    with pytest.raises(UserError, match="empty"):
        read_class_list(write(content))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read class list .*none\.txt"):
        read_class_list(tmp_path / "none.txt")


def test_repeated_names_are_notes(write, caplog):
    path = write("0: bat, animal\n1: bat, club\n2: dog, animal\n3: cat, cat\n")
    with caplog.at_level(logging.INFO):
        note_repetitions(read_class_list(path))
    assert "1 first names are shared by several classes: bat" in caplog.text
    assert "2 synonyms are shared by several classes: animal, bat" in caplog.text


def test_merges_are_found_by_exact_names():
    training = ClassList.from_strings(
        "train", ["sky", "building, skyscraper, tower", "water, lake", "table, Desk", "dog, dog"]
    )
    test = ClassList.from_strings(
        "test",
        ["tower", "lake, water", "desk, table", "house", "edifice, building", "dog", "a, dog"],
    )
    assert merges(training, test) == [Merge(1, (0, 4)), Merge(4, (5, 6))]
    assert merges(test, training) == []
    assert merges(training, training) == []


@pytest.mark.parametrize(
    ("path", "name", "count"),
    [
        ("coco133", "coco133", 133),
        ("ade150", "ade150", 150),
        (CLASS_LISTS / "ade150.txt", "ade150", 150),
        (TOY_CLASS_LISTS / "toy.txt", "toy", 86),
    ],
)
def test_lists_of_ours_are_named_by_their_stem(path, name, count):
    """Those of the benchmarks are also found by it."""
    class_list = read_class_list(path)
    assert class_list.name == name
    assert len(class_list) == count
    every = [synonym for synonyms in class_list.classes for synonym in synonyms]
    # Leftovers of COCO's naming, or of names split at the wrong place, are no words.
    assert not [s for s in every if s.endswith(("-merged", "-other", "-stuff")) or s != s.strip()]


@pytest.mark.parametrize("name", ["toy", "../class_lists/ade150", "../toy/class_lists/toy"])
def test_only_lists_of_the_benchmarks_are_found_by_name(name):
    with pytest.raises(UserError, match=f"cannot read class list {name}: No such file"):
        read_class_list(name)


def test_typed_classes():
    """Commas separate synonyms, semicolons classes; blanks and empty classes do not count."""
    assert choose_classes("cat, kitten;sofa ; wall;").classes == (
        ("cat", "kitten"),
        ("sofa",),
        ("wall",),
    )
    assert choose_classes("sky").names == ("sky",)


def test_typed_class_list_file(write):
    path = write("7: dog, puppy\n2: cat\n")
    assert choose_classes(str(path)).classes == (("cat",), ("dog", "puppy"))
    assert choose_classes("ade150") == read_class_list("ade150")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty; give at least one class"),
        (" ; ", "empty; give at least one class"),
        ("cat,,kitten; sofa", "class 0 of .* has an empty name"),
        ("none.txt", r"cannot read class list none\.txt: No such file"),
    ],
)
def test_typed_classes_that_are_none(text, words):
    with pytest.raises(UserError, match=words):
        choose_classes(text)


def test_things_are_classes_of_the_list():
    classes = ClassList.from_strings("some", ["cat", "sky"], things=[0])
    assert classes.things == {0}
    for outside in (2, -1):
        with pytest.raises(UserError, match=f"some: thing {outside} is outside the 2 classes"):
            ClassList.from_strings("some", ["cat", "sky"], things=[0, outside])


def test_plain_values_restore_a_list():
    classes = ClassList.from_strings("some", ["cat, kitten", "sky", "dog"], things=[0, 2])
    stored = json.loads(json.dumps(classes.to_dict()))
    assert ClassList.from_dict(stored) == classes


@pytest.mark.parametrize(
    "change", [{"name": None, "classes": None}, {"classes": 3}, {"things": ["x"]}, {"things": None}]
)
def test_other_plain_values_are_no_list(change):
    stored = ClassList.from_strings("some", ["cat", "sky"]).to_dict() | change
    with pytest.raises(UserError, match="not a stored class list"):
        ClassList.from_dict(stored)
    with pytest.raises(UserError, match="not a stored class list"):
        ClassList.from_dict({})


def test_colors_of_neighbors_differ():
    colors = palette(150)
    assert len(colors) == 150
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    for one, other in itertools.pairwise(colors):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 60


def test_coco_names_follow_detectron2s_order():
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    ours = parse_class_list("coco133")
    assert list(ours) == [category["id"] for category in COCO_CATEGORIES]
    for category in COCO_CATEGORIES:
        name, *words = ours[category["id"]][0], *category["name"].split("-")
        if category["isthing"]:
            assert name == category["name"]
        else:
            letters = name.replace(" ", "")
            assert all(w in letters for w in words if w not in ("merged", "other", "stuff"))


def test_ade_names_keep_several_words_together():
    names = read_class_list("ade150").classes
    assert names[0] == ("wall",)
    assert names[44] == ("chest of drawers", "chest", "bureau", "dresser")
    assert names[56] == ("pool table", "billiard table", "snooker table")
    assert names[64] == ("coffee table", "cocktail table")
    assert names[139][0] == "fan"
    assert len(names[139]) > 1
    assert names[149] == ("flag",)


def test_replacement_list_of_a_data_set(write, tmp_path):
    own = class_list_for("toy_val")
    assert own.name == "toy"
    path = write("\n".join(f"{i}: class {i}" for i in range(86)))
    assert class_list_for("toy_val", str(path)).names[3] == "class 3"
    with pytest.raises(UserError, match="150 classes, but toy_val has 86"):
        class_list_for("toy_val", "ade150")
    # A replacement has the data set's things.
    assert class_list_for("toy_val", str(path)).things == own.things == set(range(80))
    with pytest.raises(UserError, match="did you mean toy_val"):
        class_list_for("toy_vall")


def test_a_data_set_with_an_empty_list_is_refused(write, tmp_path):
    with pytest.raises(UserError, match="empty"):
        register_semantic("mini", tmp_path, tmp_path, write("# no classes\n"))


def test_texts_are_no_synonyms():
    with pytest.raises(UserError, match=r"class 0 of class list x is text.*from_strings"):
        ClassList("x", ("red arrow", "grass"))


def test_label_ids_are_those_of_the_file(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("9: sky\n4: cat, kitten\n")
    read = read_class_list(path)
    assert dict(zip(read.label_ids, read.names, strict=True)) == {4: "cat", 9: "sky"}
    assert ClassList.from_strings("given", ["cat", "sky"]).label_ids == (0, 1)
    # They do not distinguish lists, and a checkpoint does not contain them.
    assert ClassList.from_dict(read.to_dict()) == read
    with pytest.raises(UserError, match="1 label ids for 2 classes"):
        ClassList("two", (("cat",), ("sky",)), label_ids=(3,))
