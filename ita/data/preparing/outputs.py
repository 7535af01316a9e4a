"""Output files of a preparation; a file with its final name is complete."""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ita.errors import UserError
from ita.files import PARTIAL_SUFFIX, written_whole

_PARTIAL = re.compile(rf"\..+\.(\d+)-\d+{re.escape(PARTIAL_SUFFIX)}")
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


def is_finished(path: Path) -> bool:
    """Whether a file, or a linked folder, exists.

    An empty file does not count: a power failure can leave one behind.
    """
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) or status.st_size > 0


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, and rename it when it is complete.

    Takes bytes since libraries that encode into a file hide the reason of a failed write.

    Raises:
        UserError: the file cannot be written; no part of it is left.
    """
    with _renamed_when_complete(path) as partial:
        partial.write_bytes(content)


def link_file(source: Path, target: Path) -> None:
    """Link a file or folder by a relative path; copy a file where links are not supported.

    Raises:
        UserError: the link or copy cannot be written.
    """
    # Relative to the folder's real path, so that the data sets can be moved as a whole.
    folder, source_folder = os.path.realpath(target.parent), os.path.realpath(source.parent)
    with _renamed_when_complete(target) as partial:
        try:
            partial.symlink_to(os.path.join(os.path.relpath(source_folder, folder), source.name))
        except OSError as error:
            if error.errno not in _NO_LINKS or source.is_dir():
                raise
            shutil.copyfile(source, partial)


def make_folder(folder: Path) -> None:
    """Create a folder for outputs, and remove partial files that killed runs left in it.

    Raises:
        UserError: the folder cannot be created or read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = os.listdir(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    for name in names:
        partial = _PARTIAL.fullmatch(name)
        if partial and not _is_running(int(partial[1])):
            with suppress(OSError):
                (folder / name).unlink()


def cannot_write(path: Path, error: OSError) -> UserError:
    """Error for an output that could not be written, with the remedy."""
    remedy = "check that the folder exists and is writable"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free disk space"
    return UserError(
        f"cannot write {path}: {error.strerror or error}; {remedy}, then run the same command "
        "again: finished files are kept"
    )


@contextmanager
def _renamed_when_complete(path: Path) -> Iterator[Path]:
    try:
        # Syncing each of a hundred thousand files would take hours.
        with written_whole(path, durable=False) as partial:
            yield partial
    except OSError as error:
        raise cannot_write(path, error) from error


def _is_running(process_id: int) -> bool:
    """Whether another process has this id, so that its partial files may be in use."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process_id != os.getpid()
