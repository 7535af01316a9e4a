"""Installation of `detectron2` and `panopticapi` where they cannot be built from GitHub.

Detectron2 has no release on PyPI, and panopticapi's only release requires numpy < 2. PyPI has
third-party wheels of both with upstream's Python source. This module downloads exactly these
files, verifies their SHA-256, and installs the packages that ITA uses as pure-Python wheels under
upstream's names, so that pip lists them, removes them, and replaces them when the official
packages are installed later. Packages that are already importable are left unchanged.

Only the standard library and pip are required. The dependencies are those of ITA itself.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ita.errors import UserError
from ita.files import sha256_of

logger = logging.getLogger(__name__)

# Libraries that determine results.
RESULT_PACKAGES = (
    "torch",
    "torchvision",
    "detectron2",
    "open_clip_torch",
    "timm",
    "numpy",
    "Pillow",
)
COMPILED_SUFFIXES = frozenset({".so", ".pyd", ".dylib"})
# Earliest timestamp of the zip format; a fixed one makes the wheels reproducible.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Source:
    """A wheel on PyPI and the pure-Python distribution that is built from it.

    Attributes:
        package: Import name; also the only top-level folder that is kept, and the name of the
            built distribution.
        version: Version of the built distribution. The part after the plus sign distinguishes it
            from upstream's, so that pip replaces it when upstream's is installed.
        project: Requirement for `pip download`.
        filename: Name of the downloaded file.
        sha256: Hexadecimal digest of that file.
        summary: One-line summary for `pip show`.
        requires: Requirements to declare in place of the file's own.
        official: Command that installs upstream's distribution.
    """

    package: str
    version: str
    project: str
    filename: str
    sha256: str
    summary: str
    requires: tuple[str, ...]
    official: str

    @property
    def download_arguments(self) -> tuple[str, ...]:
        """Arguments of `pip download` that fetch the file under any Python version."""
        # The file is tagged for CPython 3.10, but the kept source also runs on later versions.
        target = ("--implementation", "cp", "--python-version", "3.10", "--only-binary=:all:")
        return (*target, "--no-deps", self.project)


SOURCES = (
    Source(
        package="detectron2",
        version="0.6+pure.a59f0563",
        project="sal_detectron2==0.7.2",
        filename="sal_detectron2-0.7.2-cp310-none-any.whl",
        sha256="491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561",
        summary="Detectron2's Python source as in sal_detectron2 0.7.2, without compiled operators",
        requires=(
            "cloudpickle",
            "fvcore",
            "iopath",
            "matplotlib",
            "numpy",
            "omegaconf",
            "packaging",
            "Pillow",
            "pycocotools",
            "tabulate",
            "tensorboard",
            "termcolor",
            "tqdm",
            "yacs",
        ),
        official="python -m pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2.git",
    ),
    Source(
        package="panopticapi",
        version="0.1+lite.0.2.0",
        project="panopticapi-lite==0.2.0",
        filename="panopticapi_lite-0.2.0-py3-none-any.whl",
        sha256="58d3ffa842a72240162e7fa744c602a0a5320baabbdb3295d770374f4639b486",
        summary="COCO panoptic API as in panopticapi-lite 0.2.0",
        requires=("numpy", "Pillow"),
        official="python -m pip install git+https://github.com/cocodataset/panopticapi.git",
    ),
)


def is_importable(package: str) -> bool:
    """Return whether a top-level package can be found for import, without running its code."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(package)
    # A folder of that name without __init__.py, such as a clone, is a namespace package.
    return spec is not None and spec.origin is not None


def fetch(source: Source, folder: Path) -> Path:
    """Download the source's file into a folder.

    Raises:
        UserError: If the download fails.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    done = subprocess.run(
        [*command, *source.download_arguments], capture_output=True, text=True, check=False
    )
    path = folder / source.filename
    if done.returncode != 0 or not path.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no error message"]
        raise UserError(
            f"cannot download {source.project} ({lines[-1]}): with network access, run "
            f"`python -m pip download --dest wheels {' '.join(source.download_arguments)}`, copy "
            f"the file here and run this command with --wheel-dir wheels; or install the official "
            f"package with `{source.official}`"
        )
    return path


def find(source: Source, folder: Path) -> Path:
    """Return the source's file in a folder of downloaded files.

    Raises:
        UserError: If the file does not exist.
    """
    path = folder / source.filename
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: download it with "
            f"`python -m pip download --dest {folder} {' '.join(source.download_arguments)}`"
        )
    return path


def installed_versions() -> dict[str, str]:
    """Versions of this package and of the libraries that determine its results, by name."""
    versions = {}
    for package in ("ita", *RESULT_PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def check_sha256(path: Path, expected: str) -> None:
    """Verify the SHA-256 digest of a file.

    Raises:
        UserError: If the digest differs.
    """
    actual = sha256_of(path)
    if actual != expected:
        raise UserError(
            f"{path} has sha256 {actual}, not {expected}: the file is wrong or damaged; "
            f"nothing was installed; delete it and download it again"
        )


def make_pure_wheel(source: Source, original: Path, folder: Path) -> Path:
    """Write a wheel tagged py3-none-any that contains only the source's package.

    Compiled files and other top-level packages are dropped; data files and the license are kept.

    Args:
        source: Package to keep and metadata to declare.
        original: Downloaded wheel.
        folder: Folder of the new wheel.

    Returns:
        Path of the new wheel.

    Raises:
        UserError: If the original is not a wheel or does not contain the package.
    """
    dist_info = f"{source.package}-{source.version}.dist-info"
    try:
        with zipfile.ZipFile(original) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise UserError(f"{original} is not a wheel ({error}): download it again") from error
    files = {name: data for name, data in members.items() if _is_kept(name, source.package)}
    if f"{source.package}/__init__.py" not in files:
        raise UserError(f"{original} contains no package {source.package}")
    for name, data in members.items():
        path = PurePosixPath(name)
        if path.parent.name.endswith(".dist-info") and path.name.startswith("LICENSE"):
            files[f"{dist_info}/licenses/{path.name}"] = data
    files[f"{dist_info}/METADATA"] = _metadata(source, files)
    files[f"{dist_info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: ita install-detectron2\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{dist_info}/RECORD"] = _record(files, f"{dist_info}/RECORD")
    wheel = folder / f"{source.package}-{source.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return wheel


def _is_kept(name: str, package: str) -> bool:
    path = PurePosixPath(name)
    return (
        path.parts[0] == package
        and not name.endswith("/")
        and path.suffix not in COMPILED_SUFFIXES
        and "__pycache__" not in path.parts
    )


def _metadata(source: Source, files: Mapping[str, bytes]) -> bytes:
    licenses = [PurePosixPath(name).name for name in files if "/licenses/" in name]
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {source.package}",
        f"Version: {source.version}",
        f"Summary: {source.summary}",
        *(f"License-File: {name}" for name in licenses),
        *(f"Requires-Dist: {requirement}" for requirement in source.requires),
    ]
    return ("\n".join(lines) + "\n").encode()


def _record(files: Mapping[str, bytes], own_name: str) -> bytes:
    """List every file with its digest and size, as the wheel format requires."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        writer.writerow((name, f"sha256={digest}", len(data)))
    writer.writerow((own_name, "", ""))
    return text.getvalue().encode()


def install_missing(sources: Sequence[Source], wheel_dir: Path | None) -> None:
    """Install the packages that cannot be imported, either all of them or none.

    Args:
        sources: Packages that should be importable.
        wheel_dir: Folder with the downloaded files; None downloads them.

    Raises:
        UserError: If a file is unavailable or unusable, or pip fails.
    """
    missing = [source for source in sources if not is_importable(source.package)]
    for source in sources:
        if source not in missing:
            logger.info("%s is already importable: left unchanged", source.package)
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="ita-install-") as scratch:
        wheels = Path(scratch) / "wheels"
        wheels.mkdir()
        for source in missing:
            logger.info("preparing %s from %s", source.package, source.project)
            path = fetch(source, Path(scratch)) if wheel_dir is None else find(source, wheel_dir)
            check_sha256(path, source.sha256)
            make_pure_wheel(source, path, wheels)
        _pip_install([f"{source.package}=={source.version}" for source in missing], wheels)
    for source in missing:
        if not is_importable(source.package):
            raise UserError(
                f"pip installed {source.package} outside the import path of {sys.executable}"
            )
        logger.info("installed %s %s", source.package, source.version)


def _pip_install(requirements: Sequence[str], wheels: Path) -> None:
    # By name from a folder, not by path: pip would record the temporary path.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--find-links", str(wheels), *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no error message"]
        raise UserError(f"pip could not install {', '.join(requirements)}: {lines[-1]}")
