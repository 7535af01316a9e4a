"""Writing result files so that a reader never sees half of one."""

import os
from pathlib import Path

from ita.errors import UserError


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whose folder is made: the whole new file or the old one.

    Raises:
        UserError: the folder or file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
