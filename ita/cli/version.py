"""Versions of the package and of the libraries that determine its results, and the GPUs."""

import importlib.util
import platform
from collections import Counter
from pathlib import Path
from types import ModuleType

from ita.installing import installed_versions

# One of these is there if a driver is loaded: NVIDIA's, that of Windows under WSL, AMD's.
DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/dxg"), Path("/dev/kfd"))


def describe_versions() -> str:
    """Return one line per package, starting with this one; that of torch also names CUDA and GPUs.

    PyTorch, which takes seconds to import, is imported only where there is a driver to ask.
    """
    versions = {"ita": "", "python": platform.python_version(), **installed_versions()}
    if build := _torch_build():
        versions["torch"] += f" ({build})"
    return "".join(f"{name} {version}\n" for name, version in versions.items())


def _torch_build() -> str:
    """Describe what the installed PyTorch computes on; empty if there is none."""
    version = _torch_version_module()
    if version is None:
        return ""
    if not version.cuda and not version.hip:
        return "CPU only"
    platform_name = f"CUDA {version.cuda}" if version.cuda else f"ROCm {version.hip}"
    return f"{platform_name}; GPUs: {_describe_gpus()}"


def _torch_version_module() -> ModuleType | None:
    """Load ``torch.version``, a file of constants, without importing ``torch``."""
    package = importlib.util.find_spec("torch")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).with_name("version.py")
    spec = importlib.util.spec_from_file_location("torch_version", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _describe_gpus() -> str:
    """Name the GPUs that PyTorch can use, equal ones once with their number."""
    if not any(path.exists() for path in DRIVERS):
        return "none"
    import torch

    if not torch.cuda.is_available():
        return "none that this PyTorch can use"
    counts = Counter(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return ", ".join(f"{n} × {name}" if n > 1 else name for name, n in counts.items())
