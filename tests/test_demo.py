"""The demo, shortened, as a process: a small ITA learns scenes, and learns them by their names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ita.data.class_lists import VOCABULARIES

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS = 240


def run(*arguments: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    printed = run("tools/demo.py", "--output", str(folder), "--iterations", str(ITERATIONS))
    return folder, printed


def miou(folder: Path) -> float:
    results = json.loads((folder / "results.json").read_text())["results"]
    return results["toy_val"]["sem_seg"]["mIoU"]


def test_it_learns(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    assert miou(folder / "untrained") < 10
    assert miou(folder / "run") >= 50
    before_and_after = re.search(r"mIoU ([\d.]+) -> ([\d.]+)$", printed, re.MULTILINE)
    assert float(before_and_after[1]) == pytest.approx(miou(folder / "untrained"), abs=0.05)
    assert float(before_and_after[2]) == pytest.approx(miou(folder / "run"), abs=0.05)


def test_it_stops_half_way_and_resumes(demo: tuple[Path, str]) -> None:
    log = (demo[0] / "run" / "log.txt").read_text()
    assert f"Training from iteration 0 to {ITERATIONS // 2}" in log
    assert f"Training from iteration {ITERATIONS // 2} to {ITERATIONS}" in log


def test_it_writes_pictures_where_it_says(demo: tuple[Path, str]) -> None:
    folder = Path(re.search(r"beside their truth: (.+)$", demo[1], re.MULTILINE)[1])
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 4
    assert all(min(Image.open(picture).size) > 128 for picture in pictures)


def test_other_names_for_the_classes_ruin_the_result(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    """The classes are told apart by their text vectors: shuffle these, and little is right."""
    lines = (VOCABULARIES / "toy.txt").read_text().splitlines()
    ids, names = zip(*(line.split(": ") for line in lines if line[0] != "#"), strict=True)
    shuffled = tmp_path / "shuffled.txt"
    shifted = names[3:] + names[:3]
    shuffled.write_text("".join(f"{i}: {n}\n" for i, n in zip(ids, shifted, strict=True)))
    command = ["--config-file", "configs/toy/ita_tiny.yaml", "--vocabulary", str(shuffled)]
    weights = ["MODEL.WEIGHTS", str(demo[0] / "run" / "model_final.pth")]
    output = ["OUTPUT_DIR", str(tmp_path / "output")]
    run(
        "train_net.py",
        *command,
        "--eval-only",
        *weights,
        *output,
        DETECTRON2_DATASETS=str(demo[0] / "datasets"),
    )
    assert miou(tmp_path / "output") < 15
