"""Comparison of class lists with published ones."""

from dataclasses import replace

from ita.classes import ClassList, read_class_list
from ita.engine.benchmark_lists import difference, short_hash


def test_packaged_lists_are_compared_by_their_classes():
    packaged = read_class_list("coco133")
    assert difference(packaged, "coco133") == ""
    assert difference(replace(packaged, name="elsewhere/coco.txt"), "coco133") == ""
    older = replace(packaged, classes=(("man",), *packaged.classes[1:]))
    assert difference(older, "coco133") == "has other classes than the published one"
    assert difference(older, "") == ""
    assert difference(read_class_list("pc59"), "coco133") == "is not the published one"


def test_other_lists_are_compared_by_their_file_names():
    class_list = ClassList("lists/mine.txt", (("cat",),))
    assert difference(class_list, "mine.txt") == ""
    assert difference(class_list, "other.txt") == "is not the published one"


def test_the_hash_is_that_of_the_names_only():
    one = ClassList("one", (("cat", "kitten"), ("dog",)))
    same = ClassList("two", (("cat", "kitten"), ("dog",)), frozenset([1]), (3, 7))
    assert short_hash(one) == short_hash(same)
    others = [(("cat",), ("kitten", "dog")), (("dog",), ("cat", "kitten"))]
    assert len({short_hash(ClassList("one", classes)) for classes in (*others, one.classes)}) == 3
