"""Image and video files of a command line: paths, folders and patterns."""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ita.errors import UserError

# Of the files in a folder, those with these suffixes are its images; of files with one stem, a data
# set contains the one whose suffix comes first.
IMAGE_SUFFIXES = (
    *(".bmp", ".jpeg", ".jpg", ".png", ".webp"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif", ".heic", ".heif"),
)


def find_files(words: Sequence[str | Path], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List files, by default images.

    Args:
        words: paths of files, which are listed as they are; of folders, for the files in them that
            have one of the suffixes, without those of their subfolders; or patterns such as
            ``photos/*.jpg`` or ``photos/**/*.png``, of which likewise.
        suffixes: suffixes with their dots, in lower case.

    Returns:
        The files in the order of the words, each once; those of a folder or pattern in the order
        of their names, with numbers by their values.

    Raises:
        UserError: nothing in a folder or of a pattern has one of the suffixes.
    """
    return list(dict.fromkeys(path for word in words for path in _expand(str(word), suffixes)))


def _expand(word: str, suffixes: Sequence[str]) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        yield from _chosen(path.iterdir(), suffixes, f"{word} contains no file of a known format")
    elif path.exists() or not glob.has_magic(word):
        yield path  # a missing file is reported when it is read
    else:
        matches = map(Path, glob.iglob(word, recursive=True))
        yield from _chosen(matches, suffixes, f"no file of a known format matches {word}")


def _chosen(paths: Iterator[Path], suffixes: Sequence[str], failure: str) -> list[Path]:
    files = [p for p in paths if p.suffix.lower() in suffixes and p.is_file()]
    if not files:
        raise UserError(f"{failure} ({', '.join(suffixes)})")
    return sorted(files, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key under which image 9 comes before image 10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], str(path)
