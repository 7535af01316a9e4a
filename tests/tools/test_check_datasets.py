import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ita.cli import main
from ita.errors import UserError
from tests.data import mini_sets
from tests.data.mini import random_image
from tests.datasets import layouts

PREPARE_A847 = "ita datasets prepare ade20k-full --split val"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def check(root, capsys):
    """Runs ``ita datasets check``; the exit code and what it printed."""

    def run(*words):
        code = main(["datasets", "check", *words])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def line_of(name: str, output: str) -> str:
    """A set's line of the table."""
    (line,) = [line for line in output.splitlines() if line.startswith(f"{name} ")]
    return line


@pytest.mark.parametrize("deep", [False, True])
def test_every_benchmark(root, check, deep):
    for write in mini_sets.WRITERS.values():
        write(root)
    options = ["--split", "val", *(["--deep", "--workers", "2"] if deep else [])]
    code, output = check("--subset", *options)
    assert code == 0, output
    for name in mini_sets.WRITERS:
        line = line_of(name, output)
        assert re.search(r" 2 of [\d,]+ ", line)
        assert line.endswith(" ready")
        assert re.search(r" \d+ in 2 read ", line)
    assert "semantic, panoptic, no instances" in line_of(
        "openvocab_coco_2017_val_panoptic_with_sem_seg", output
    )
    code, output = check(*options)
    assert code == 1
    assert "images with labels: 2, not 5,104" in output
    assert " ready" not in output
    # The data sets are not complete, so no command can provide the other images.
    assert " complete " not in output
    assert output.count(
        "-> accept a part of the data set with --subset, or download the others"
    ) == len(mini_sets.WRITERS)


def test_classes_seen(root, check):
    truth = mini_sets.voc21(root)
    _, output = check("pas21", "--split", "val", "--subset")
    seen = {c for label in truth.values() for c in np.unique(label).tolist()} - {255}
    assert f" {len(seen)} in 2 read " in output


def test_only_what_was_asked_for_decides(root, check):
    mini_sets.voc20(root)
    assert check("pas20", "--split", "val", "--subset")[0] == 0
    assert check("pas20", "--split", "train", "--subset")[0] == 1
    assert check("pas20", "--subset")[0] == 1
    # A name says what its split is.
    code, output = check("openvocab_pascal20_sem_seg_val", "--split", "train", "--subset")
    assert code == 0
    assert line_of("openvocab_pascal20_sem_seg_val", output).endswith(" ready")
    code, output = check("pas20", "a847", "--split", "val", "--subset")
    assert code == 1
    assert line_of("openvocab_pascal20_sem_seg_val", output).endswith(" ready")
    assert line_of("openvocab_ade20k_full_sem_seg_val", output).endswith(" NOT READY")


def test_remedy_depends_on_what_is_there(root, check):
    raw, command = "ADE20K_2021_17_01/images/ADE/validation", f"run: {PREPARE_A847}"
    _, output = check("a847", "--split", "val")
    assert f"-> download {raw} (dataset.md), then {command}" in output
    (root / raw).mkdir(parents=True)
    _, output = check("a847", "--split", "val")
    assert f"-> no images of val in {root}/ADE20K_2021_17_01/images" in output
    layouts.ade20k_full(root)
    for options in ((), ("--subset",)):
        _, output = check("a847", "--split", "val", *options)
        assert f"looked for {root}/ADE20K_2021_17_01/images_detectron2/validation" in output
        assert f"-> {command}" in output
        assert re.search(" part +no +0 of 2,000 ", output)


def test_commands_that_have_done_their_work_are_not_suggested_again(root, check, capsys):
    """Before and after a preparation, and where part of it is lost."""
    layouts.ade20k_full(root)
    assert main(PREPARE_A847.split()[1:]) == 0
    capsys.readouterr()
    code, output = check("a847", "--split", "val")
    assert code == 1
    assert re.search(" part +yes +[0-9]+ of 2,000 ", output)
    assert "-> accept a part of the data set with --subset, or download the others" in output
    assert check("a847", "--split", "val", "--subset")[0] == 0
    for folder in ("images", "annotations"):
        first, *_ = sorted((root / f"ADE20K_2021_17_01/{folder}_detectron2/validation").iterdir())
        first.unlink()
    code, output = check("a847", "--split", "val")
    assert code == 1
    assert re.search(" part +part +[0-9]+ of 2,000 ", output)
    assert f"-> run: {PREPARE_A847}" in output
    assert "--subset" not in output


def test_training_names_the_same_remedy(root, check):
    for prepare in (None, layouts.ade20k_full, mini_sets.ade847):
        if prepare:
            prepare(root)
        code, output = check("a847", "--split", "val", "--subset")
        try:
            DatasetCatalog.get("openvocab_ade20k_full_sem_seg_val")
            assert code == 0
        except UserError as error:
            place = f"DETECTRON2_DATASETS ({root}) is the folder of all data sets"
            problem, remedy = str(error).split(f"; {place}; ")
            assert f"\n  {problem}\n  -> {remedy}\n" in output


def test_missing_annotations_are_notes(root, check):
    mini_sets.ade150(root)
    code, output = check("ade20k", "--split", "val", "--subset")
    assert code == 0
    assert "semantic, no panoptic, no instances" in output
    # Preparing again could not create them.
    assert re.search(
        r"note: .*/ade20k_panoptic_val\.json and .*/ade20k_instance_val\.json do not exist; "
        r"download ADEChallengeData2016/annotations_instance/validation \(dataset\.md\), "
        r"then run: ita datasets prepare ade20k --split val\n",
        output,
    )
    (root / "ADEChallengeData2016/annotations_instance/validation").mkdir(parents=True)
    _, output = check("ade20k", "--split", "val", "--subset")
    assert "do not exist; run: ita datasets prepare ade20k --split val\n" in output


def voc_files(root):
    folder = root / "pascal_voc_d2"
    return folder / "images/validation", folder / "annotations_pascal21/validation"


def label_outside_the_list(root):
    path = voc_files(root)[1] / "2007_000002.png"
    values = np.array(Image.open(path))
    values[3, 4] = 254
    Image.fromarray(values).save(path)
    return path, "label 254 is outside the class list"


def truncated_image(root):
    path = voc_files(root)[0] / "2007_000002.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    return path, "cannot read image"


def truncated_label(root):
    path = voc_files(root)[1] / "2007_000002.png"
    path.write_bytes(path.read_bytes()[:-100])
    return path, "cannot read label map"


def other_size(root):
    path = voc_files(root)[0] / "2007_000002.jpg"
    Image.fromarray(random_image(10, 11)).save(path)
    return path, r"is \(11, 10\) \(width, height\), but its labels are \(32, 24\)"


def label_without_image(root):
    path = voc_files(root)[0] / "2007_000002.jpg"
    path.unlink()
    return voc_files(root)[1], "1 of the 2 label maps"


def image_without_label(root):
    path = voc_files(root)[1] / "2007_000002.png"
    path.unlink()
    return voc_files(root)[0], "1 of 2 images in .* have no label map"


DAMAGE = [
    label_outside_the_list,
    truncated_image,
    truncated_label,
    other_size,
    label_without_image,
    image_without_label,
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_damage_is_named(root, check, damage, workers):
    mini_sets.voc21(root)
    path, words = damage(root)
    code, output = check("pas21", "--split", "val", "--subset", "--deep", "--workers", workers)
    assert code == 1
    assert re.search(words, output)
    assert str(path) in output
    assert "ita datasets prepare pascal-voc --split val" in output


def test_a_link_to_a_bad_download_is_not_prepared_again(root, check, capsys):
    layouts.pascal_voc(root)
    assert main(["datasets", "prepare", "pascal-voc", "--split", "val"]) == 0
    capsys.readouterr()
    image = min((root / "VOCdevkit/VOC2012/JPEGImages").iterdir())
    for path in image.parent.iterdir():
        path.write_bytes(path.read_bytes()[:-300])
    _, output = check("pas21", "--split", "val", "--subset")
    assert "cannot read image" in output
    assert re.search(r"-> unpack or download VOCdevkit/VOC2012/JPEGImages/\S+ again", output)
    assert "ita datasets prepare" not in output


def test_a_sample_is_read_unless_all_is_asked_for(root, check):
    mini_sets.voc21(root, count=30)
    path = voc_files(root)[0] / "2007_000002.jpg"
    path.write_bytes(path.read_bytes()[:100])
    code, output = check("pas21", "--split", "val", "--subset")
    assert code == 0
    assert " in 15 read " in output
    code, output = check("pas21", "--split", "val", "--subset", "--deep", "--workers", "2")
    assert code == 1
    assert f"cannot read image {path}" in output
    assert " in 30 read " in output


def test_missing_files_are_counted(root, check):
    mini_sets.mapillary(root, count=3)
    for number in (1, 2):
        (root / f"mapillary_vistas/validation/panoptic/-AbC_{number:02d}xyz.png").unlink()
    code, output = check("mapillary", "--split", "val", "--subset")
    assert code == 1
    assert re.search("file not found: .*-AbC_01xyz.png", output)


def test_segments_without_pixels(root, check):
    mini_sets.coco(root)
    path = root / "coco/annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["segments_info"].append({"id": 77, "category_id": 1})
    path.write_text(json.dumps(content))
    code, output = check("coco", "--split", "val", "--subset", "--deep", "--workers", "1")
    assert code == 1
    assert re.search(r"000002\.png lacks segment 77 of the panoptic json", output)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not COCO instances json"),
        ('{"images": [{"id": 1}], "annotations": []}', "lacks 1 images, the first is 2"),
        (
            '{"images": [{"id": 1}, {"id": 2}], "annotations": [{"category_id": 92}]}',
            "category 92 is not a thing",
        ),
    ],
)
def test_instances(root, check, content, words):
    mini_sets.coco(root)
    path = root / "coco/annotations/instances_val2017.json"
    path.write_text(content)
    options = ("coco", "--split", "val", "--subset")
    assert check(*options)[0] == 0
    code, output = check(*options, "--deep", "--workers", "1")
    assert code == 1
    assert words in output
    assert str(path) in output


@pytest.fixture
def own(tmp_path):
    """A YAML file with a set of one's own, one of whose images has no label map."""
    for number, folder in enumerate(("images", "images", "labels")):
        path = tmp_path / folder / f"{number % 2}.png"
        array = np.uint8([[1, 2]]) if folder == "labels" else random_image(1, 2)
        mini_sets.save(array, path)
    (tmp_path / "classes.txt").write_text("1: cat\n2: dog\n")
    path = tmp_path / "own.yaml"
    path.write_text("mini_own: {class_list: classes.txt, image_root: images, label_root: labels}\n")
    yield path
    if "mini_own" in DatasetCatalog:
        DatasetCatalog.remove("mini_own")
        MetadataCatalog.remove("mini_own")


def test_a_set_of_ones_own(check, own):
    code, output = check(str(own), "--deep", "--workers", "1")
    assert code == 0
    assert re.search("mini_own +1 +semantic +2 in 1 read +ready", output)
    assert f"note: 1 of 2 images in {own.parent}/images have no label map" in output


def remove_labels(folder):
    (folder / "labels/0.png").unlink()
    return "has no labels: looked for", "provide the files, or correct label_root of"


def remove_images(folder):
    shutil.rmtree(folder / "images")
    return "not found: looked for", "provide the files, or correct image_root of"


def value_outside_the_list(folder):
    mini_sets.save(np.uint8([[1, 9]]), folder / "labels/0.png")
    return (
        "label 9 is outside the class list",
        "replace the file, or correct label_root, class_list or ignored_values of",
    )


def linked_image_cut_short(folder):
    """The files of one's own data may be elsewhere."""
    path = folder / "images/0.png"
    path.rename(folder / "elsewhere.png")
    path.symlink_to(folder / "elsewhere.png")
    path.write_bytes(path.read_bytes()[:30])
    return "cannot read image", "replace the file, or correct image_root of"


@pytest.mark.parametrize(
    "damage", [remove_labels, remove_images, value_outside_the_list, linked_image_cut_short]
)
def test_own_data_is_not_to_be_downloaded(check, own, damage):
    problem, remedy = damage(own.parent)
    code, output = check(str(own))
    assert code == 1
    assert problem in output
    assert f"-> {remedy} mini_own in {own}\n" in output
    assert "download it" not in output


def test_mistakes_get_one_line(check, tmp_path):
    code, output = check("a487")
    assert code == 1
    assert output == "error: unknown data set a487; did you mean a847?\n"
    code, output = check(str(tmp_path / "none.yaml"))
    assert code == 1
    assert output.startswith("error: cannot read")
    assert len(output.splitlines()) == 1
