"""Image files of a command line: paths, folders and patterns."""

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


def find_images(words: Sequence[str | Path]) -> list[Path]:
    """List image files.

    Args:
        words: paths of files, which are listed as they are; of folders, for the images in them
            without those of their subfolders; or patterns such as ``photos/*.jpg`` or
            ``photos/**/*.png``.

    Returns:
        The files in the order of the words, each once; those of a folder or pattern in the order
        of their names, with numbers by their values.

    Raises:
        UserError: a folder without images, or a pattern without matches.
    """
    return list(dict.fromkeys(path for word in words for path in _expand(str(word))))


def _expand(word: str) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        yield from _sorted_images(path.iterdir(), f"{word} contains no images")
    elif path.exists() or not glob.has_magic(word):
        yield path  # a missing file is reported when it is read
    else:
        matches = map(Path, glob.iglob(word, recursive=True))
        yield from _sorted_images(matches, f"no image matches {word}")


def _sorted_images(paths: Iterator[Path], failure: str) -> list[Path]:
    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not images:
        raise UserError(f"{failure} ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(images, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key under which image 9 comes before image 10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], str(path)
