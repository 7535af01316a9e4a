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

from ita.data import TrainingMapper, load_semantic_label
from ita.data.toy import make_toy_dataset
from ita.errors import UserError
from tools.make_toy_dataset import main


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    make_toy_dataset(folder / "toy", seed=1, train=12, val=6, size=96)
    return folder


@pytest.fixture
def toy(root, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root / "toy"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_same_seed_gives_the_same_bytes(toy, tmp_path):
    again = make_toy_dataset(tmp_path / "toy", seed=1, train=12, val=6, size=96)
    names = files(toy)
    assert files(again) == names
    assert len(names) == 2 * (12 + 6) + 4 + 2
    equal, unequal, missing = filecmp.cmpfiles(toy, again, names, shallow=False)
    assert (len(equal), unequal, missing) == (len(names), [], [])


def test_other_seeds_and_splits_give_other_scenes(toy, tmp_path):
    other = make_toy_dataset(tmp_path / "toy", seed=2, train=12, val=6, size=96)
    images = [path.read_bytes() for folder in (toy, other) for path in folder.rglob("*.jpg")]
    assert len(set(images)) == 2 * (12 + 6)


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("val", 6)])
def test_it_is_a_registered_data_set(toy, split, count):
    records = DatasetCatalog.get(f"toy_{split}")
    metadata = MetadataCatalog.get(f"toy_{split}")
    assert len(records) == count
    mapper = TrainingMapper(metadata, image_size=96, min_scale=1, max_scale=1)
    seen = set()
    for record in records:
        assert mapper(record)["valid_size"] == (record["height"], record["width"])
        label = load_semantic_label(record, metadata)
        assert (label != 255).mean() > 0.7
        seen |= set(np.unique(label).tolist()) - {255}
    assert len(seen) >= 9
    assert metadata.json_file.endswith(f"instances_{split}.json")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_annotations_say_what_the_png_shows(toy):
    content = json.loads((toy / "panoptic_train.json").read_text())
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    assert len(things) == 6
    instances = COCO(str(toy / "instances_train.json"))
    for annotation in content["annotations"]:
        color = np.asarray(Image.open(toy / "panoptic_train" / annotation["file_name"])).astype(int)
        ids = color @ [1, 256, 65536]
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


def test_a_finished_folder_is_left_alone_and_a_strange_one_refused(toy, tmp_path):
    before = {name: (toy / name).stat().st_mtime_ns for name in files(toy)}
    make_toy_dataset(toy, seed=1, train=12, val=6, size=96)
    assert {name: (toy / name).stat().st_mtime_ns for name in files(toy)} == before
    with pytest.raises(UserError, match="already holds something else"):
        make_toy_dataset(toy, seed=1, train=13, val=6, size=96)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds something else"):
        make_toy_dataset(tmp_path, train=1, val=1)
    assert files(tmp_path) == ["mine.txt"]


def test_a_folder_is_complete_or_not_there(tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ita.data.toy.shutil.copyfile", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*toy: .*No space left"):
        make_toy_dataset(tmp_path / "toy", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path):
    script = Path(__file__).parents[2] / "tools" / "make_toy_dataset.py"
    arguments = ["--train", "2", "--val", "1", "--size", "64", "--seed", "5"]
    command = [sys.executable, str(script), str(tmp_path / "toy"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "toy" / "toy_train").iterdir())) == 2


def test_command_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_toy_dataset.py", str(tmp_path / "toy"), "--train", "0"])
    assert main() == 1
    assert capsys.readouterr().err.startswith("train 0, val 24")
    assert not (tmp_path / "toy").exists()
