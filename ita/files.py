"""Locating the package's files, hashing files, and writing them atomically."""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ita.errors import UserError, WriteError

PACKAGE = Path(__file__).resolve().parent
# Suffix of incomplete files.
PARTIAL_SUFFIX = ".partial"
_CHUNK = 1 << 24


def find_file(path: str | Path) -> Path:
    """Resolve a file or folder in the working directory or else in the package.

    ``configs/...`` and ``ita/...`` also resolve to the configs and files installed with the
    package, so that documented commands work from any directory.

    Returns:
        The first existing path, or ``path`` itself if there is none.
    """
    path = Path(os.path.expanduser(path))  # which leaves "~" before an unknown name as it is
    # os.path.exists, since Path.exists raises OSError for a text that is too long for a file name.
    if os.path.exists(path) or path.is_absolute() or not path.parts:
        return path
    root = {"ita": PACKAGE.parent, "configs": PACKAGE}.get(path.parts[0])
    return root / path if root is not None and os.path.exists(root / path) else path


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; the file may be larger than memory.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


@contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success, move it to ``path``.

    On an error the temporary file is removed and ``path`` is left as it was.

    Args:
        path: the final path, in an existing folder.
        durable: sync the content to disk first, so that a power failure cannot leave an empty
            file under the final name.
    """
    partial = _partial(path)
    try:
        yield partial
        if durable:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file atomically, creating its folder; readers see the old or the new content.

    Raises:
        WriteError: the folder or file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def folder_written_whole(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder beside ``path``; on success, move it to ``path``.

    On an error it is removed with its files, and ``path`` is left as it was.

    Args:
        path: the final path; the folder around it is created if necessary.
        replace: remove the folder at ``path``, if there is one, with all files in it.

    Raises:
        UserError: ``path`` exists and is not to be replaced, or the folder or something in it
            cannot be written.
    """
    if os.path.lexists(path) and not replace:
        raise UserError(f"{path} exists; remove it or choose another name")
    partial, former = _partial(path), _partial(path.with_name(f"{path.name}-former"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if os.path.lexists(path):
            os.rename(path, former)
        os.rename(partial, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if os.path.lexists(former) and not os.path.lexists(path):
            os.rename(former, path)
        for folder in (partial, former):
            shutil.rmtree(folder, ignore_errors=True)


def _partial(path: Path) -> Path:
    """Name beside ``path`` for what this thread has not finished."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL_SUFFIX}")
