"""ADE20K's ``index_ade20k.pkl``, read without running code that a pickle may contain."""

import pickle
from pathlib import Path, PurePosixPath
from typing import Any

from ita.data.preparing.raw import AGAIN
from ita.errors import UserError, reason_of

# Constructors of numpy arrays and scalars, under the names of numpy 1 and 2.
_ALLOWED = frozenset(
    {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
    | {
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    }
)


def read_index(path: Path, root: Path) -> list[Path]:
    """Read the image paths from ADE20K's index.

    Args:
        root: base folder of the index's paths.

    Raises:
        UserError: an unreadable file, one with objects other than arrays and plain values, or one
            that names files outside the data set.
    """
    remedy = f"{AGAIN}, or remove it to search the folders instead"
    try:
        with path.open("rb") as file:
            content = _Restricted(file).load()
        names = list(zip(content["folder"], content["filename"], strict=True))
        relative = [PurePosixPath(str(folder), str(name)) for folder, name in names]
    except Exception as error:  # unpickling a damaged file can raise anything
        reason = reason_of(error)
        raise UserError(f"cannot read {path}: {reason}; {remedy}") from error
    for image in relative:
        if image.is_absolute() or ".." in image.parts or not image.name.startswith("ADE_"):
            raise UserError(f"{path} names a file outside the data set, {image}; {remedy}")
    return [root / image for image in relative]


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it tries to import {module}.{name}")
        return super().find_class(module, name)
