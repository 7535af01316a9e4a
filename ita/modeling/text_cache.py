"""Text features on disk, so that a later process need not encode the same names again."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ita.errors import UserError
from ita.files import PARTIAL_SUFFIX
from ita.modeling.storage import SAFETENSORS, read_metadata, read_tensors, write_tensors

logger = logging.getLogger(__name__)

# Environment variable that names the folder of cached files; empty for none.
FOLDER_VARIABLE = "ITA_CACHE_DIR"
# Bounds of all files together: 87,000 names at a width of 768; and a folder that is quick to list.
MAX_BYTES = 1 << 28
MAX_FILES = 1000
# Age at which an incomplete file is taken to be left over by a process that was killed.
STALE_SECONDS = 3600.0


def cache_folder() -> Path | None:
    """Return the folder of cached files; None if caching is disabled or there is no home folder.

    It is ``ITA_CACHE_DIR``, else ``ita`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen is not None:
        return Path(os.path.abspath(os.path.expanduser(chosen))) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard ignores others
        base = os.path.expanduser("~/.cache")
    return Path(base, "ita") if os.path.isabs(base) else None


class FeatureCache:
    """Text features by name in the files of a folder.

    A file contains the features of the names that were encoded together. Its name is the digest of
    these names and of what the features depend on besides, so processes never write different
    content to one file. Files are written atomically, and a damaged one is replaced. The least
    recently used ones are removed when all together exceed ``MAX_BYTES`` or ``MAX_FILES``. Nothing
    here raises: whatever fails is logged once as a warning, and names are encoded instead.

    Args:
        folder: the folder, for these files alone; created when a file is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warnings: set[str] = set()

    @classmethod
    def of_user(cls) -> "FeatureCache | None":
        """Return the user's cache (:func:`cache_folder`); None if there is none."""
        folder = cache_folder()
        return cls(folder / "text_features") if folder else None

    def load(self, key: str, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the stored features [D] float32 of those of the names that have them.

        Args:
            key: what the features depend on besides the name, in hexadecimal.
            names: the names.
        """
        wanted, found = set(names), dict[str, Tensor]()
        for path in self._files(f"{key}-"):
            if not wanted:
                break
            try:
                found |= _read(path, key, wanted)
            except (UserError, ValueError) as error:
                if path.exists():  # else another process has just removed it
                    self._replace(path, error)
            wanted -= found.keys()
        return found

    def store(self, key: str, names: Sequence[str], features: Tensor) -> None:
        """Store the features [N, D] float32 of N distinct names, then remove old files.

        Args:
            key: as for :meth:`load`.
            names: the names.
            features: a row per name, on the CPU.
        """
        path = self.folder / f"{key}-{digest_of(list(names))}{SAFETENSORS}"
        metadata = {"key": key, "names": list(names), "digest": _digest_of_bytes(features)}
        try:
            write_tensors(path, {"features": features}, metadata)
            self._remove_old()
        except (UserError, OSError) as error:
            self._warn("text features are not stored for later use: %s", error)

    def _files(self, prefix: str = "") -> Iterator[Path]:
        """Files of the folder with features, and incomplete ones."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn("text features stored in earlier runs are not used: %s", error)
            return
        suffixes = (SAFETENSORS,) if prefix else (SAFETENSORS, PARTIAL_SUFFIX)
        yield from (self.folder / n for n in names if n.startswith(prefix) and n.endswith(suffixes))

    def _replace(self, path: Path, error: Exception) -> None:
        self._warn("stored text features are computed again: %s", error)
        with suppress(OSError):
            path.unlink()

    def _remove_old(self) -> None:
        """Remove the least recently used files beyond the bounds, and incomplete ones."""
        files = []
        for path in self._files():
            with suppress(FileNotFoundError):
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        count = total = 0
        for modified, size, path in sorted(files, reverse=True):
            if path.suffix == PARTIAL_SUFFIX:
                is_old = time.time() - modified > STALE_SECONDS
            else:
                count, total = count + 1, total + size
                is_old = count > MAX_FILES or total > MAX_BYTES
            if is_old:
                path.unlink(missing_ok=True)

    def _warn(self, message: str, error: Exception) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            logger.warning(message, error)


def _read(path: Path, key: str, wanted: set[str]) -> dict[str, Tensor]:
    """Read the features of the wanted names that a file has, and mark it as used.

    Raises:
        UserError, ValueError: the file is damaged, or not one that a cache wrote under this name.
    """
    metadata = read_metadata(path)
    names = metadata.get("names")
    if metadata.get("key") != key or not isinstance(names, list):
        raise ValueError(f"{path} does not contain what its name says")
    rows = {name: row for row, name in enumerate(names) if name in wanted}
    if not rows:
        return {}
    features = read_tensors(path, "file").get("features")
    if (
        not isinstance(features, Tensor)
        or features.dtype != torch.float32
        or features.shape[:-1] != (len(names),)
        or metadata.get("digest") != _digest_of_bytes(features)
    ):
        raise ValueError(f"{path} is damaged")
    with suppress(OSError):
        os.utime(path)
    return {name: features[row] for name, row in rows.items()}


def digest_of(values: Any) -> str:
    """Compute a digest of plain values, 128 bits in hexadecimal."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def _digest_of_bytes(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
