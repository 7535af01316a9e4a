"""Reading and writing of tensor files, without executing code that a file may contain."""

import json
import math
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from ita.errors import UserError
from ita.files import write_atomically
from ita.structured_files import parse_json

SAFETENSORS = ".safetensors"


def read_tensors(path: str | Path, description: str) -> dict[str, Any]:
    """Read a ``.safetensors`` file, or a ``torch.save`` file of tensors and plain values.

    Args:
        path: the file.
        description: kind of file for error messages, such as "checkpoint".

    Returns:
        The file's dict, with tensors on the CPU, possibly mapped from the file.

    Raises:
        UserError: the file is missing, damaged, truncated or not a dict, or contains objects other
            than tensors and plain values.
    """
    path = Path(path)
    # os.path.isfile, since Path.is_file raises OSError for a text that is too long for a file name.
    if not os.path.isfile(path):
        problem = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{description} {path} {problem}")
    try:
        if path.suffix == SAFETENSORS:
            content = safetensors.torch.load_file(path)
        else:
            content = load_mapped(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"cannot read {description} {path}: it is damaged or contains objects other than "
            "tensors and plain values"
        ) from error
    except Exception as error:  # damaged files raise almost any exception
        raise UserError(
            f"cannot read {description} {path}; it is damaged or truncated ({reason(error)})"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{description} {path} contains a {type(content).__name__}, not tensors by name"
        )
    return content


def load_mapped(path: Path) -> Any:
    """Load a ``torch.save`` file on the CPU, its tensors mapped from disk where possible.

    Raises:
        Exception: almost any, if the file is damaged; pickle.UnpicklingError, if it contains
            objects other than tensors and plain values.
    """
    mapped = zipfile.is_zipfile(path)  # unlike files of PyTorch before 1.6
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a ``.safetensors`` file; {} for any other file.

    Returns:
        Values by name, decoded if they are JSON, else as text.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix != SAFETENSORS:
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # damaged files raise almost any exception
        raise UserError(f"cannot read the metadata of {path}: {reason(error)}") from error
    return {key: _decoded(value) for key, value in metadata.items()}


def nonfinite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors with a value of nan or inf, reading each value once."""

    def is_finite(tensor: Tensor) -> bool:
        if tensor.element_size() == 1:  # float8, of which PyTorch has no minimum
            tensor = tensor.float()
        # Faster than isfinite, and without a copy: a nan becomes minimum and maximum.
        return all(math.isfinite(value) for value in torch.aminmax(tensor.detach()))

    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.numel() and not is_finite(tensor)
    ]


def _decoded(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a ``.safetensors`` file atomically.

    Args:
        path: the file; its folder is created if necessary.
        tensors: by name, on any device.
        metadata: plain values by name, stored as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    write_atomically(path, safetensors.torch.save(stored, texts))


def reason(error: BaseException) -> str:
    """Return the type and first sentence of an error; the rest may be pages of advice."""
    line = next(iter(str(error).splitlines()), "").partition(". ")[0]
    return f"{type(error).__name__}: {line}"[:200].rstrip(": ")
