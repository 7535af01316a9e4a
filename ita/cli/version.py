"""Versions of the package and of the libraries that determine its results."""

import importlib.metadata
import platform

PACKAGES = ("torch", "torchvision", "detectron2", "open_clip_torch", "timm", "numpy")


def describe_versions() -> str:
    """Return one line per package, starting with this one."""
    lines = [f"ita {_version('ita')}", f"python {platform.python_version()}"]
    lines += [f"{package} {_version(package)}" for package in PACKAGES]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
