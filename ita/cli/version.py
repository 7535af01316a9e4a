"""Versions of the package and of the libraries that determine its results."""

import platform

from ita.installing import installed_versions


def describe_versions() -> str:
    """Return one line per package, starting with this one."""
    versions = {"ita": "", "python": platform.python_version(), **installed_versions()}
    return "".join(f"{name} {version}\n" for name, version in versions.items())
