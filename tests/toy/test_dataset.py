import filecmp
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ita.cli import main
from ita.data.mapper import TrainingMapper
from ita.data.reading import load_semantic_label
from ita.errors import UserError
from ita.toy.dataset import make_toy_dataset
from ita.toy.names import (
    DISTRACTOR_STUFF,
    DISTRACTOR_THINGS,
    SEEN_THINGS,
    STUFF,
    TEST_UNSEEN,
    THINGS,
    VAL_UNSEEN,
)

SMALL = {"seed": 1, "train": 12, "val": 10, "test": 8, "size": 96}
COUNTS = {"train": 12, "val": 10, "test_seen": 8, "test_unseen": 8, "test_all": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    make_toy_dataset(folder / "toy", **SMALL)
    return folder


@pytest.fixture
def toy(root, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root / "toy"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def panoptic(toy: Path, split: str) -> dict:
    return json.loads((toy / f"panoptic_{split}.json").read_text())


def names_shown(toy: Path, split: str) -> list[str]:
    """The class of every segment."""
    content = panoptic(toy, split)
    names = {category["id"]: category["name"] for category in content["categories"]}
    segments = [s for a in content["annotations"] for s in a["segments_info"]]
    return [names[segment["category_id"]] for segment in segments]


def test_same_seed_gives_the_same_bytes(toy, tmp_path):
    again = make_toy_dataset(tmp_path / "toy", **SMALL)
    names = files(toy)
    assert files(again) == names
    assert len(names) == 2 * sum(COUNTS.values()) + 2 * len(COUNTS) + 1
    equal, unequal, missing = filecmp.cmpfiles(toy, again, names, shallow=False)
    assert (len(equal), unequal, missing) == (len(names), [], [])


def test_other_seeds_and_splits_give_other_scenes(toy, tmp_path):
    other = make_toy_dataset(tmp_path / "toy", **{**SMALL, "seed": 2})
    images = [path.read_bytes() for folder in (toy, other) for path in folder.rglob("*.jpg")]
    assert len(set(images)) == len(images) == 2 * sum(COUNTS.values())


def test_more_scenes_leave_the_others_as_they_are(toy, tmp_path):
    more = make_toy_dataset(tmp_path / "toy", **{**SMALL, "train": 13, "test": 9})
    names = [name for name in files(toy) if name.endswith((".jpg", ".png"))]
    assert filecmp.cmpfiles(toy, more, names, shallow=False)[0] == names


@pytest.mark.parametrize(
    ("split", "scenes"),
    [
        *zip(COUNTS, COUNTS, strict=True),
        ("test_synonyms", "test_all"),
        ("test_distractors", "test_all"),
    ],
)
def test_it_is_a_registered_data_set(toy, split, scenes):
    records = DatasetCatalog.get(f"toy_{split}")
    metadata = MetadataCatalog.get(f"toy_{split}")
    assert len(records) == COUNTS[scenes]
    mapper = TrainingMapper(
        metadata, image_size=96, min_scale=1, max_scale=1, flip="horizontal", pad=True
    )
    for record in records:
        assert mapper(record)["valid_size"] == (record["height"], record["width"])
        assert (load_semantic_label(record, metadata) != 255).mean() > 0.7
    assert metadata.json_file.endswith(f"instances_{scenes}.json")


@pytest.mark.parametrize(
    ("split", "things"),
    [
        ("train", SEEN_THINGS),
        ("val", THINGS),
        ("test_all", THINGS),
        ("test_distractors", THINGS + DISTRACTOR_THINGS),
    ],
)
def test_things_are_told_from_stuff(split, things):
    metadata = MetadataCatalog.get(f"toy_{split}")
    assert set(metadata.thing_classes) == set(things)
    stuff = STUFF + (DISTRACTOR_STUFF if split == "test_distractors" else ())
    assert set(metadata.stuff_classes) == {*things, *stuff}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("split", ["train", "test_all"])
def test_annotations_say_what_the_png_shows(toy, split):
    content = panoptic(toy, split)
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    assert {c["name"] for c in content["categories"] if not c["isthing"]} == set(STUFF)
    instances = COCO(str(toy / f"instances_{split}.json"))
    for annotation in content["annotations"]:
        color = np.asarray(Image.open(toy / f"panoptic_{split}" / annotation["file_name"]))
        ids = color.astype(int) @ [1, 256, 65536]
        segments = annotation["segments_info"]
        assert {s["id"] for s in segments} == set(np.unique(ids).tolist()) - {0}
        stuff = [s["category_id"] for s in segments if s["category_id"] not in things]
        assert len(stuff) == len(set(stuff))
        masks = {}
        for segment in segments:
            mask = ids == segment["id"]
            rows, columns = np.nonzero(mask)
            x, y, width, height = segment["bbox"]
            assert segment["area"] == mask.sum()
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
            if segment["category_id"] in things:
                masks[segment["category_id"], segment["area"], segment["iscrowd"]] = mask
        boxed = instances.loadAnns(instances.getAnnIds(annotation["image_id"]))
        assert len(boxed) == sum(s["category_id"] in things for s in segments)
        for instance in boxed:
            key = instance["category_id"], instance["area"], instance["iscrowd"]
            np.testing.assert_array_equal(coco_mask.decode(instance["segmentation"]), masks[key])


def test_training_files_name_no_unseen_class(toy):
    for kind in ("panoptic", "instances"):
        text = (toy / f"{kind}_train.json").read_text()
        assert f'"{SEEN_THINGS[0]}"' in text
        # With their quotes, since "checkered square" ends like an unseen class.
        assert not [name for name in VAL_UNSEEN + TEST_UNSEEN if f'"{name}"' in text]
    categories = panoptic(toy, "train")["categories"]
    assert {category["name"] for category in categories} == {*SEEN_THINGS, *STUFF}


@pytest.mark.parametrize(
    ("split", "unseen", "share"),
    [
        ("train", (), 0.0),
        ("val", VAL_UNSEEN, 0.5),
        ("test_seen", (), 0.0),
        ("test_unseen", TEST_UNSEEN, 1.0),
        ("test_all", TEST_UNSEEN, 0.5),
    ],
)
def test_splits_show_what_they_say(split, unseen, share, tmp_path):
    counts = {"train": 1, "val": 1, "test": 1, split.partition("_")[0]: 100}
    shown = names_shown(make_toy_dataset(tmp_path / "toy", **counts, size=48), split)
    objects = [name for name in shown if name not in STUFF]
    # No distractor either.
    assert set(objects) <= {*SEEN_THINGS, *unseen}
    assert set(shown) >= set(STUFF)
    got = sum(name in unseen for name in objects) / len(objects)
    assert abs(got - share) < (0.12 if share == 0.5 else 1e-9)
    # Every class is as likely as any other of its group.
    assert set(objects) >= set(unseen)
    assert len(set(objects) & set(SEEN_THINGS)) >= (40 if share < 1 else 0)


def test_a_finished_folder_is_left_alone_and_a_strange_one_refused(toy, tmp_path):
    before = {name: (toy / name).stat().st_mtime_ns for name in files(toy)}
    make_toy_dataset(toy, **SMALL)
    assert {name: (toy / name).stat().st_mtime_ns for name in files(toy)} == before
    with pytest.raises(UserError, match="already has other content"):
        make_toy_dataset(toy, **{**SMALL, "train": 13})
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already has other content"):
        make_toy_dataset(tmp_path, train=1, val=1, test=1)
    assert files(tmp_path) == ["mine.txt"]


def test_a_folder_of_another_world_is_refused(tmp_path):
    folder = make_toy_dataset(tmp_path / "toy", train=1, val=1, test=1, size=48)
    description = json.loads((folder / "toy.json").read_text())
    description["world"] -= 1
    (folder / "toy.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="already has other content"):
        make_toy_dataset(folder, train=1, val=1, test=1, size=48)


def test_a_folder_is_complete_or_not_there(tmp_path, monkeypatch):
    write_text, written = Path.write_text, []

    def full_disk(path, *args, **kwargs):
        if path.name == "panoptic_test_all.json":
            raise OSError(28, "No space left on device")
        written.append(path.name)
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*toy: .*No space left"):
        make_toy_dataset(tmp_path / "toy", train=1, val=1, test=1, size=48)
    assert "instances_test_unseen.json" in written
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path):
    script = Path(__file__).parents[2] / "tools" / "make_toy_dataset.py"
    arguments = ["--train", "2", "--val", "1", "--test", "3", "--size", "64", "--seed", "5"]
    command = [sys.executable, str(script), str(tmp_path / "toy"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    images = {path.name: len(list(path.iterdir())) for path in (tmp_path / "toy").glob("toy_*")}
    assert images == {
        "toy_train": 2, "toy_val": 1, "toy_test_seen": 3, "toy_test_unseen": 3, "toy_test_all": 3
    }  # fmt: skip


def test_command_refuses_in_one_line(tmp_path, capsys):
    assert main(["toy", "make", str(tmp_path / "toy"), "--train", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: train 0, val 200, test 200")
    assert not (tmp_path / "toy").exists()
