"""The wheel: complete, and working outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import ita
model = ita.load()
import numpy as np
result = model.segment(np.zeros((40, 50, 3), np.uint8), ["red circle, crimson disc", "grass"])
assert result.label_map.shape == (40, 50), result.label_map.shape
assert result.names == ("red circle", "grass")
print(ita.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout's files, since building writes beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for name in ("ita", "configs", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, copy], check=True, capture_output=True)
    (path,) = folder.glob("ita-*.whl")
    return path


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(ROOT / "ita", followlinks=True)
        for name in names
        if "__pycache__" not in folder and not name.endswith(".partial")
    ]
    assert len(files) > 100
    missing = [f for f in files if str(f.relative_to(ROOT)) not in packed]
    assert missing == []
    assert any(name.startswith("ita/configs/coco/") for name in packed)


def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "site" / "ita" / "__init__.py")


def test_configs_are_found_by_the_names_of_the_readme_from_anywhere(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "DETECTRON2_DATASETS": "x"}
    config = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
    command = [sys.executable, "-m", "ita", "evaluate", "--config-file", config]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: data set openvocab_ade20k_panoptic_val")
