"""The installer, on miniature wheels and virtual environments of the tests' own, offline."""

import base64
import csv
import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from ita.cli import main
from ita.errors import UserError
from ita.installing import (
    Source,
    check_sha256,
    install_missing,
    is_importable,
    make_pure_wheel,
)

ROOT = Path(__file__).resolve().parents[1]

CONTENT = {
    "shapes/__init__.py": "SIDES = 4\n",
    "shapes/_C.cpython-310-x86_64-linux-gnu.so": "compiled",
    "shapes/area.py": "def area(side):\n    return side * side\n",
    "shapes/model_zoo/square.yaml": "SIDES: 4\n",
    "shapes/projects/round/__init__.py": "",
    "tools/__init__.py": "",
    "tools/train_net.py": "",
    "shapely_fork-0.7.dist-info/LICENSE": "Free.\n",
    "shapely_fork-0.7.dist-info/METADATA": "Name: shapely-fork\nRequires-Dist: numpy<2\n",
    "shapely_fork-0.7.dist-info/WHEEL": "Tag: cp310-cp310-linux_x86_64\n",
    "shapely_fork-0.7.dist-info/RECORD": "shapes/__init__.py,,\n",
}
DIST_INFO = "shapes-0.6+pure.dist-info"


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A wheel with everything that Detectron2's has too much."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    path = folder / "shapely_fork-0.7-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in CONTENT.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def source(original: Path) -> Source:
    return Source(
        package="shapes",
        version="0.6+pure",
        project="shapely_fork==0.7",
        filename=original.name,
        sha256=hashlib.sha256(original.read_bytes()).hexdigest(),
        summary="Shapes",
        requires=("numpy", "Pillow"),
        official="pip install git+https://example.org/shapes.git",
    )


def read_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment that holds nothing but pip; tests leave it so."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


def run_installer(
    python: Path, sources: list[Source], wheel_dir: Path
) -> subprocess.CompletedProcess[str]:
    """Run ``ita install-detectron2`` for these sources in another Python, which has no ITA."""
    code = (
        "import sys; import ita.installing; from ita.cli import main\n"
        "from ita.installing import Source\n"
        f"ita.installing.SOURCES = {sources!r}\n"
        f"sys.exit(main(['install-detectron2', '--wheel-dir', {str(wheel_dir)!r}]))\n"
    )
    return subprocess.run(
        [str(python), "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def imports(python: Path, package: str) -> bool:
    # Elsewhere than in this checkout, whose folders would be found.
    command = [str(python), "-c", f"import {package}"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=python.parent)
    return done.returncode == 0


def test_pure_wheel_keeps_only_the_packages_own_files(original, source, tmp_path):
    wheel = make_pure_wheel(source, original, tmp_path)

    assert wheel.name == "shapes-0.6+pure-py3-none-any.whl"
    files = read_wheel(wheel)
    assert set(files) == {
        "shapes/__init__.py",
        "shapes/area.py",
        "shapes/model_zoo/square.yaml",
        "shapes/projects/round/__init__.py",
        f"{DIST_INFO}/METADATA",
        f"{DIST_INFO}/WHEEL",
        f"{DIST_INFO}/RECORD",
        f"{DIST_INFO}/licenses/LICENSE",
    }
    assert files["shapes/area.py"].decode() == CONTENT["shapes/area.py"]
    assert b"Tag: py3-none-any\n" in files[f"{DIST_INFO}/WHEEL"]
    assert b"Root-Is-Purelib: true\n" in files[f"{DIST_INFO}/WHEEL"]


def test_pure_wheel_declares_its_own_requirements(original, source, tmp_path):
    metadata = read_wheel(make_pure_wheel(source, original, tmp_path))[f"{DIST_INFO}/METADATA"]

    lines = metadata.decode().splitlines()
    assert "Name: shapes" in lines
    assert "Version: 0.6+pure" in lines
    requires = [line for line in lines if line.startswith("Requires-Dist")]
    assert requires == ["Requires-Dist: numpy", "Requires-Dist: Pillow"]


def test_record_lists_every_file_with_digest_and_size(original, source, tmp_path):
    files = read_wheel(make_pure_wheel(source, original, tmp_path))

    record = files.pop(f"{DIST_INFO}/RECORD").decode()
    rows = {name: (digest, size) for name, digest, size in csv.reader(io.StringIO(record))}
    assert rows.pop(f"{DIST_INFO}/RECORD") == ("", "")
    assert set(rows) == set(files)
    for name, (digest, size) in rows.items():
        algorithm, encoded = digest.split("=", 1)
        padded = encoded + "=" * (-len(encoded) % 4)
        assert algorithm == "sha256"
        assert base64.urlsafe_b64decode(padded) == hashlib.sha256(files[name]).digest()
        assert int(size) == len(files[name])


def test_same_input_gives_the_same_wheel(original, source, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    first = make_pure_wheel(source, original, tmp_path / "a")
    second = make_pure_wheel(source, original, tmp_path / "b")

    assert first.read_bytes() == second.read_bytes()


def test_a_file_that_is_no_wheel_is_refused(source, tmp_path):
    path = tmp_path / "page.whl"
    path.write_text("<html>not found</html>")

    with pytest.raises(UserError, match="is not a wheel"):
        make_pure_wheel(source, path, tmp_path)


def test_a_wheel_without_the_package_is_refused(original, source, tmp_path):
    other = dataclasses.replace(source, package="circles")

    with pytest.raises(UserError, match="contains no package circles"):
        make_pure_wheel(other, original, tmp_path)


def test_one_changed_byte_is_refused(original, source):
    check_sha256(original, source.sha256)
    data = bytearray(original.read_bytes())
    data[10] ^= 1
    original.write_bytes(data)

    with pytest.raises(UserError, match=rf"has sha256 [0-9a-f]{{64}}, not {source.sha256}"):
        check_sha256(original, source.sha256)


def test_installed_package_is_known_to_pip(empty_environment, original, source):
    done = run_installer(empty_environment, [source], original.parent)

    assert done.returncode == 0, done.stderr
    assert "installed shapes 0.6+pure" in done.stderr
    pip = [str(empty_environment), "-m", "pip", "--disable-pip-version-check"]
    freeze = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True)
    assert freeze.stdout.strip() == "shapes==0.6+pure"
    assert imports(empty_environment, "shapes.projects.round")
    assert not imports(empty_environment, "tools")
    subprocess.run([*pip, "uninstall", "--yes", "shapes"], capture_output=True, check=True)
    assert not imports(empty_environment, "shapes")


def test_nothing_is_installed_when_one_file_is_wrong(empty_environment, original, source):
    wrong = dataclasses.replace(source, package="circles", sha256="0" * 64)

    done = run_installer(empty_environment, [source, wrong], original.parent)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert f"has sha256 {source.sha256}, not {'0' * 64}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not imports(empty_environment, "shapes")


def test_missing_file_names_the_path_and_the_command(source, tmp_path):
    with pytest.raises(UserError) as error:
        install_missing([source], tmp_path)

    assert str(tmp_path / source.filename) in str(error.value)
    assert "pip download" in str(error.value)
    assert "shapely_fork==0.7" in str(error.value)


def test_failed_download_says_what_to_do(source, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(UserError) as error:
        install_missing([source], None)

    message = str(error.value)
    assert message.startswith("cannot download shapely_fork==0.7 (ERROR: ")
    assert "--wheel-dir" in message
    assert source.official in message
    assert "\n" not in message


def test_importable_package_is_left_as_it_is(source, tmp_path, monkeypatch):
    own = tmp_path / "site" / "shapes"
    own.mkdir(parents=True)
    # Its code must not run either: an installation that fails to import is its owner's to mend.
    (own / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(own.parent)

    install_missing([source], tmp_path / "no such folder")

    assert [path.name for path in own.iterdir()] == ["__init__.py"]


def test_command_leaves_what_is_importable_as_it_is(source, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ita.installing.SOURCES", (dataclasses.replace(source, package="json"),))
    caplog.set_level("INFO")

    assert main(["install-detectron2", "--wheel-dir", str(tmp_path / "no such folder")]) == 0

    assert "json is already importable: left unchanged" in caplog.text


def test_command_tells_an_error_in_one_line(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ita.installing.SOURCES", (source,))

    assert main(["install-detectron2", "--wheel-dir", str(tmp_path / "none")]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'none' / source.filename} does not exist")


def test_a_clone_beside_is_no_installation(tmp_path, monkeypatch):
    (tmp_path / "shapes" / "shapes").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)

    assert not is_importable("shapes")


WITHOUT_COMPILED = """
import sys
sys.modules["detectron2._C"] = None  # an import of it raises ImportError
import torch
import detectron2.checkpoint, detectron2.engine, detectron2.evaluation, detectron2.modeling
import detectron2.projects.point_rend, detectron2.solver, detectron2.structures
import detectron2.utils.events, detectron2.utils.visualizer
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, transforms
import numpy as np

cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
model = detectron2.modeling.build_model(cfg).eval()
image = transforms.ResizeShortestEdge(32).get_transform(np.zeros((64, 64, 3), np.uint8))
pixels = torch.as_tensor(image.apply_image(np.zeros((64, 64, 3), np.uint8))).permute(2, 0, 1)
with torch.no_grad():
    output = model([{"image": pixels, "height": 64, "width": 64}])
assert output[0]["sem_seg"].shape == (54, 64, 64)
assert "coco_2017_val" in DatasetCatalog.list()
import panopticapi.evaluation
"""


def test_detectron2_works_without_its_compiled_operators():
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_COMPILED]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
