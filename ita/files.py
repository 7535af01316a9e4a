"""Finding files of the package, and writing files so that no reader sees half of one."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ita.errors import UserError

PACKAGE = Path(__file__).resolve().parent
# Suffix of files that are not complete yet.
PARTIAL_SUFFIX = ".partial"


def find_file(path: str | Path) -> Path:
    """The file or folder that ``path`` names, in the working directory or else in the package.

    ``configs/...`` and ``ita/...`` also name the configs and the files that are installed with the
    package, so that the commands of the documentation work from any directory.

    Returns:
        The first that exists, or ``path`` itself.
    """
    path = Path(path).expanduser()
    if path.exists() or path.is_absolute() or not path.parts:
        return path
    root = {"ita": PACKAGE.parent, "configs": PACKAGE}.get(path.parts[0])
    return root / path if root is not None and (root / path).exists() else path


@contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success, move it to ``path``.

    On an error the temporary file is removed and ``path`` is left as it was.

    Args:
        path: in an existing folder.
        durable: wait until the content is on disk, so that a power failure cannot leave an empty
            file under the final name.
    """
    name = f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL_SUFFIX}"
    partial = path.with_name(name)
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
    """Write a file and the folder it is in; readers see the old content or all of the new.

    Raises:
        UserError: the folder or file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
