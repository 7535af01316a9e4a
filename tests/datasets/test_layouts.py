"""Other ways in which downloads lie on disk."""

import numpy as np
from PIL import Image

from tests.datasets import layouts
from tests.datasets.conftest import files


def test_without_instances_a150_is_semantic(tmp_path, prepare):
    truth = layouts.ade20k(tmp_path, instances=False)
    code, lines, errors = prepare("ade20k", tmp_path, "--split", "val")
    assert (code, errors) == (0, [])
    ade = tmp_path / "ADEChallengeData2016"
    assert lines[-1].startswith(f"{ade}/ade20k_panoptic_val.json")
    assert f"skipped, they need {ade}/annotations_instance/validation" in lines[-1]
    made = {path for path in files(tmp_path) if "detectron2" in path or "ade20k_" in path}
    assert made == {path for path in truth if "validation" in path}


def test_mapillary_s_own_label_maps_are_taken(tmp_path, prepare):
    (path,), (truth,) = zip(*layouts.mapillary(tmp_path, labels=True).items(), strict=True)
    assert prepare("mapillary", tmp_path)[0] == 0
    assert (tmp_path / path).parent.is_symlink()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / path)), truth)


def test_mapillary_where_the_field_has_it_needs_nothing(tmp_path, prepare):
    layouts.mapillary(tmp_path, labels=True, version=".")
    before = files(tmp_path)
    code, lines, _ = prepare("mapillary", tmp_path)
    assert code == 0
    assert files(tmp_path) == before
    labels = tmp_path / "mapillary_vistas/validation/labels"
    assert f"{labels}: wrote 0 files, 1 were finished" in lines


def test_a_root_that_links_to_elsewhere(tmp_path, prepare):
    """Raw folders on one disk, prepared ones on another."""
    raw, elsewhere, root = (tmp_path / name for name in ("raw", "far/away/disk", "root"))
    truth = layouts.pascal_voc(raw)
    elsewhere.mkdir(parents=True)
    root.mkdir()
    (root / "VOCdevkit").symlink_to(raw / "VOCdevkit")
    (root / "pascal_voc_d2").symlink_to(elsewhere)
    assert prepare("pascal_voc", root)[0] == 0
    for path, label in truth.items():
        np.testing.assert_array_equal(np.asarray(Image.open(root / path)), label)
    image = root / "pascal_voc_d2/images/training/2007_000032.jpg"
    assert image.is_symlink()
    assert image.resolve() == raw / "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg"
