"""ADE20K's ``index_ade20k.pkl``, read without running what a pickle may hold."""

import pickle
from pathlib import Path, PurePosixPath
from typing import Any

from ita.data.preparing.raw import AGAIN
from ita.errors import UserError

# What numpy's arrays and numbers are made of, under the names of numpy 1 and 2.
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
    """The images that ADE20K's index names.

    Args:
        root: what the index's folders are relative to.

    Raises:
        UserError: the file cannot be read, wants anything but arrays and plain values, or names
            files outside the data set.
    """
    without = f"{AGAIN}, or remove it: then the folders are searched"
    try:
        with path.open("rb") as file:
            content = _Restricted(file).load()
        names = list(zip(content["folder"], content["filename"], strict=True))
        relative = [PurePosixPath(str(folder), str(name)) for folder, name in names]
    except Exception as error:  # whatever unpickling a damaged file raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read {path}: {reason}; {without}") from error
    for image in relative:
        if image.is_absolute() or ".." in image.parts or not image.name.startswith("ADE_"):
            raise UserError(f"{path} names a file that is not of the data set, {image}; {without}")
    return [root / image for image in relative]


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return super().find_class(module, name)
