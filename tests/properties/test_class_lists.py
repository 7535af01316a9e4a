"""Class lists of any names, and files of any text."""

import contextlib
import json

from hypothesis import assume, given
from hypothesis import strategies as st

from ita.classes import (
    INVALID_NAME,
    ClassList,
    choose_classes,
    format_class_list,
    read_class_list,
    read_ids_and_classes,
)
from ita.errors import UserError

# What a file's line can hold of a name: no separator, no white space around it.
NAMES = (
    st.text(st.characters(exclude_characters=",\r\n", exclude_categories=["Cs"]), min_size=1)
    .map(str.strip)
    .filter(bool)
)
CLASSES = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(tuple), min_size=1, unique=True)


@given(CLASSES)
def test_a_list_is_read_as_it_was_written(tmp_path, classes):
    assume((INVALID_NAME,) not in classes)
    path = tmp_path / "list.txt"
    path.write_bytes(format_class_list(ClassList("list", tuple(classes))).encode())
    assert read_class_list(path).classes == tuple(classes)


@given(CLASSES, st.sets(st.integers(0, 3)))
def test_a_list_as_plain_values(classes, things):
    things = frozenset(thing for thing in things if thing < len(classes))
    class_list = ClassList("list", tuple(classes), things)
    again = ClassList.from_dict(json.loads(json.dumps(class_list.to_dict())))
    assert (again.classes, again.things) == (class_list.classes, class_list.things)
    assert all(class_list.seen(again))


@given(st.dictionaries(st.integers(0, 10**6), NAMES, min_size=1))
def test_ids_in_any_order(tmp_path, names):
    assume(INVALID_NAME not in names.values())
    assume(len(set(names.values())) == len(names))
    path = tmp_path / "list.txt"
    path.write_bytes("".join(f"{i}: {name}\n" for i, name in names.items()).encode())
    ids, class_list = read_ids_and_classes(path)
    assert ids == tuple(sorted(names))
    assert class_list.names == tuple(names[i] for i in ids)


@given(st.text() | st.from_regex(r"(\d: ?\w*,? ?\w*\n){1,4}", fullmatch=True))
def test_any_text_is_a_list_or_refused(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read, source in (
        (read_class_list, path),
        (choose_classes, str(path)),
        (choose_classes, text),
    ):
        with contextlib.suppress(UserError):
            class_list = read(source)
            assert all(name for synonyms in class_list.classes for name in synonyms)
