"""The worked examples of dataset.md, "Your own data": their files and commands as they stand."""

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ita.data.custom import KEYS
from tests.data import mini_sets
from tests.data.mini import random_image
from tests.engine.tiny import REPOSITORY, overrides
from tests.evaluation.scenes import NUM_IMAGES, write_scenes

FOLDERS = ("fields", "pets", "output")


def fences() -> list[str]:
    """The blocks of the section, without their language."""
    text = (REPOSITORY / "dataset.md").read_text(encoding="utf-8")
    section = text.split("## Your own data\n")[1].split("\n## ")[0]
    return re.findall(r"^```(?:yaml)?\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """Path -> content of the blocks that begin with a path as a comment."""
    return {f.split("\n")[0][2:]: f for f in fences() if f.startswith("# ")}


def commands() -> list[list[str]]:
    """The commands of the other blocks."""
    blocks = [f.replace("\\\n", " ") for f in fences() if f.startswith(("python ", "ita "))]
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


class Commands:
    """Runs the commands in a folder, with a small model."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, words: list[str]) -> str:
        program = ["-m", "ita"] if words[0] == "ita" else []
        rest = [str(self.folder / w) if w.split("/")[0] in FOLDERS else w for w in words[1:]]
        if rest[0] in ("train_net.py", "train", "evaluate"):
            rest += overrides(OUTPUT_DIR=self.folder / "output", SOLVER__MAX_ITER=2)
        done = subprocess.run(
            [sys.executable, *program, *rest],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr}"
        return done.stdout

    def results(self, folder: str = "output") -> dict:
        return json.loads((self.folder / folder / "results.json").read_text())


def label_maps(folder: Path) -> tuple:
    """What the three commands of the first example say, and what the last two measure.

    The images, three for training and two for validation, are labelled 0 (not), 1, 2 and 3.
    """
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            labels = np.random.default_rng(number).integers(0, 4, (3, 4), dtype=np.uint8)
            labels.flat[:4] = range(4)
            labels = labels.repeat(12, 0).repeat(12, 1)
            stem = f"{split}/field{number}"
            mini_sets.save(labels, folder / "fields" / "labels" / f"{stem}.png")
            mini_sets.save(random_image(36, 48), folder / "fields" / "images" / f"{stem}.jpg")
    for path in ("fields/classes.txt", "fields/fields.yaml"):
        (folder / path).write_text(files()[path])
    check, train, evaluate = (words for words in commands() if "fields" in " ".join(words))
    run = Commands(folder)
    table = run(check)
    run(train)
    trained = run.results()
    run(evaluate)
    return table, trained, run.results("output/evaluation")


def panoptic_json(folder: Path) -> dict:
    """What the second example measures."""
    write_scenes(folder / "pets")
    (folder / "pets" / "pets.yaml").write_text(files()["pets/pets.yaml"])
    (evaluate,) = (words for words in commands() if "pets" in " ".join(words))
    run = Commands(folder)
    run(evaluate)
    return run.results()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Both examples, which run side by side, and the folders that they ran in."""
    folders = [tmp_path_factory.mktemp(name) for name in ("label_maps", "panoptic_json")]
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(f, p) for f, p in zip((label_maps, panoptic_json), folders, strict=True)
        ]
        return [run.result() for run in runs], folders


def test_label_maps(examples):
    (table, trained, evaluated), folder = examples[0][0], examples[1][0]
    assert table.count("3 in 3 read") == 1
    run = trained["run"]
    assert (run["weights"], run["iteration"]) == ("", 2)
    assert run["train_class_list"].endswith("fields/classes.txt")
    assert evaluated["run"]["weights"] == str(folder / "output" / "model_final.pth")
    assert evaluated["results"] == trained["results"]
    (name,) = evaluated["results"]
    assert name == "fields_val"
    result = evaluated["results"][name]
    assert result.keys() == {"info", "sem_seg", "confusions", "pictures", "dominant"}
    assert result["info"]["class_list"] == str(folder / "fields" / "classes.txt")
    assert result["info"]["images"] == 2
    assert result["sem_seg"]["classes_present"] == 3
    assert {"IoU-1:crop", "IoU-2:weed", "IoU-3:soil"} < result["sem_seg"].keys()


def test_panoptic_json(examples):
    result = examples[0][1]["results"]["pets_val"]
    tasks = {"sem_seg", "panoptic_seg", "segm", "dominant"}
    assert result.keys() == {"info", "confusions", "pictures", *tasks}
    assert result["info"]["images"] == NUM_IMAGES


def test_every_key_is_documented():
    text = (REPOSITORY / "dataset.md").read_text(encoding="utf-8").split("### Keys\n")[1]
    text = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    assert re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE) == sorted(KEYS, key=text.index)
