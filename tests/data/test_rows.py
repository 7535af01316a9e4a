"""Data sets found by name, without Detectron2's catalogs."""

import pytest

from ita.data.catalogue import CATALOGUE
from ita.data.rows import describe, find_row
from ita.errors import UserError

COCO = "openvocab_coco_2017_val_panoptic_with_sem_seg"
CUSTOM = "mini_own: {class_list: classes.txt, image_root: images, label_root: labels}\n"


@pytest.fixture
def custom(tmp_path) -> str:
    (tmp_path / "classes.txt").write_text("1: cat, kitten\n4: dog\n")
    (tmp_path / "own.yaml").write_text(CUSTOM)
    return str(tmp_path / "own.yaml")


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: row.name)
def test_every_row_is_found_and_described(row):
    assert find_row(row.name) is row
    description = describe(row)
    assert description.class_list.things == set(row.things) == set(description.thing_ids)
    assert description.thing_classes == [description.stuff_classes[i] for i in sorted(row.things)]
    ids = description.stuff_dataset_id_to_contiguous_id
    assert sorted(ids.values()) == list(range(len(description.class_list)))
    things = {i for i, c in ids.items() if c in row.things}
    assert description.thing_dataset_id_to_contiguous_id.keys() == things


def test_a_row_of_a_custom_file(custom):
    row = find_row("mini_own", [custom])
    description = describe(row)
    assert description.class_list.classes == (("cat", "kitten"), ("dog",))
    assert description.class_list_ids == (1, 4)
    assert description.stuff_dataset_id_to_contiguous_id == {1: 0, 4: 1}
    assert find_row(COCO, [custom]).name == COCO


def test_an_unknown_name_gets_the_nearest_one(custom):
    with pytest.raises(UserError, match=r"unknown data set mini_owm; did you mean mini_own\?"):
        find_row("mini_owm", [custom])
    with pytest.raises(UserError, match=r"unknown data set mini_own; .*DATASETS\.CUSTOM"):
        find_row("mini_own")


def test_a_custom_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.yaml"):
        find_row(COCO, [str(tmp_path / "none.yaml")])
