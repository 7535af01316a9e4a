"""Class list files: the classes of a data set, their synonyms and their label ids.

One class per line, ``id: name, synonym, synonym``. Published lists (``id:name,synonym``) have lines
named ``invalid_class_id`` for ids that are no class; they are dropped. The classes are the
remaining lines in id order, so ids may have gaps.
"""

import codecs
import logging
import re
from collections import Counter
from pathlib import Path

from ita.errors import UserError
from ita.modeling.vocabulary import ClassList

logger = logging.getLogger(__name__)

VOCABULARIES = Path(__file__).parent / "vocabularies"
INVALID_NAME = "invalid_class_id"


def read_class_list(path: str | Path) -> ClassList:
    """Read a class list file, or one of the lists that come with ITA (``coco133``, ``ade150``).

    Returns:
        The classes in id order. A list of ours is named by its stem, any other by its path.

    Raises:
        UserError: see :func:`parse_class_list`.
    """
    return read_ids_and_classes(path)[1]


def read_ids_and_classes(path: str | Path) -> tuple[tuple[int, ...], ClassList]:
    """Read a class list as :func:`read_class_list` does, with the label id of each class."""
    classes = sorted(parse_class_list(path).items())
    file = find_class_list(path)
    name = file.stem if file.parent == VOCABULARIES else str(path)
    class_list = ClassList(name, tuple(names for _, names in classes))
    return tuple(label_id for label_id, _ in classes), class_list


def find_class_list(path: str | Path) -> Path:
    """The file that ``path`` names: itself, or a list of ours given by its bare name."""
    ours = VOCABULARIES / f"{path}.txt"
    return ours if ours.parent == VOCABULARIES and ours.is_file() else Path(path)


def parse_class_list(path: str | Path) -> dict[int, tuple[str, ...]]:
    """Read label id -> synonyms from a class list file.

    Raises:
        UserError: with file and line: no such file, bytes that are not UTF-8, a line without id or
            name, an id or a whole line of names twice, no class at all.
    """
    path = find_class_list(path)
    classes: dict[int, tuple[str, ...]] = {}
    seen_at: dict[int | tuple[str, ...], int] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        label_id, names = _parse_line(line, f"{path}:{number}")
        if names == (INVALID_NAME,):
            continue
        for key, what in ((label_id, f"id {label_id}"), (names, f"class {', '.join(names)!r}")):
            if key in seen_at:
                raise UserError(f"{path}:{number}: {what} is already on line {seen_at[key]}")
            seen_at[key] = number
        classes[label_id] = names
    if not classes:
        raise UserError(f"{path}: the class list is empty; write one 'id: name, synonym' per line")
    return classes


def _read_lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"cannot read class list {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{number}: not UTF-8 text ({error.reason})") from error
    # Not splitlines(): that also splits at characters that may stand inside a name.
    return re.split(r"\r\n|\r|\n", text)


def _parse_line(line: str, where: str) -> tuple[int, tuple[str, ...]]:
    id_text, colon, names_text = line.partition(":")
    id_text = id_text.strip()
    if not colon or not (id_text.isascii() and id_text.isdigit()):
        raise UserError(f"{where}: expected 'id: name, synonym', found {line.strip()!r}")
    names = tuple(name.strip() for name in names_text.split(",") if name.strip())
    if not names:
        raise UserError(f"{where}: id {id_text} has no name; write 'id: name, synonym'")
    return int(id_text), names


def note_repetitions(class_list: ClassList) -> None:
    """Log names that serve several classes: legal, but their logits tie."""
    first = Counter(class_list.names)
    # A name that one class lists twice is not shared.
    every = Counter(name for names in class_list.classes for name in set(names))
    for what, counts in (("first names", first), ("synonyms", every)):
        shared = [name for name, count in counts.items() if count > 1]
        if shared:
            logger.info(
                "class list %s: %d %s are shared by several classes: %s",
                class_list.name,
                len(shared),
                what,
                ", ".join(sorted(shared)),
            )
