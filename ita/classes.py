"""Class lists: the names of the classes to segment, and the files that hold them.

A file has one class per line, ``id: name, synonym, synonym``. In published lists
(``id:name,synonym``), lines named ``invalid_class_id`` mark ids without a class and are dropped.
The remaining lines are the classes, in id order; ids may have gaps.
"""

import codecs
import colorsys
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ita.errors import UserError

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
CLASS_LISTS = PACKAGE / "class_lists"
INVALID_NAME = "invalid_class_id"
LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class ClassList:
    """Classes, each with its synonyms; the first synonym is the name of the class.

    Attributes:
        name: identifies the list in results.
        classes: synonyms of each class, in the order of the class ids.
        things: ids of the classes with instances; all others are stuff.
    """

    name: str
    classes: tuple[tuple[str, ...], ...]
    things: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not self.classes:
            raise UserError(f"class list {self.name} is empty; give at least one class")
        for index, synonyms in enumerate(self.classes):
            if not synonyms or not all(synonyms):
                raise UserError(f"class {index} of class list {self.name} has an empty name")
        if outside := sorted(i for i in self.things if not 0 <= i < len(self.classes)):
            raise UserError(
                f"class list {self.name}: thing {outside[0]} is outside the "
                f"{len(self.classes)} classes"
            )

    @classmethod
    def from_strings(
        cls, name: str, classes: Iterable[str], things: Collection[int] = ()
    ) -> "ClassList":
        """Make a list from one string of comma-separated synonyms per class.

        Raises:
            UserError: no classes, or a class without a name.
        """
        if isinstance(classes, str):
            raise UserError(
                f"class list {name}: give a list of strings, not the string {classes!r}"
            )
        split = (tuple(s.strip() for s in synonyms.split(",")) for synonyms in classes)
        return cls(name, tuple(split), frozenset(things))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ClassList":
        """Restore a list from the plain values of :meth:`to_dict`.

        Raises:
            UserError: values of another form.
        """
        try:
            classes = tuple(tuple(map(str, synonyms)) for synonyms in content["classes"])
            things = frozenset(map(int, content["things"]))
            return cls(str(content["name"]), classes, things)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a stored class list ({type(error).__name__}: {error})") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the list as plain values, for JSON and checkpoints."""
        return {
            "name": self.name,
            "classes": [list(synonyms) for synonyms in self.classes],
            "things": sorted(self.things),
        }

    @property
    def names(self) -> tuple[str, ...]:
        """First synonym of each class."""
        return tuple(synonyms[0] for synonyms in self.classes)

    @property
    def synonyms(self) -> tuple[str, ...]:
        """All N synonyms of all classes, in order and not de-duplicated."""
        return tuple(s for synonyms in self.classes for s in synonyms)

    def __len__(self) -> int:
        return len(self.classes)

    def seen(self, training: "ClassList") -> list[bool]:
        """Whether each class is seen: one of its synonyms is exactly one of ``training``'s."""
        known = set(training.synonyms)
        return [not known.isdisjoint(synonyms) for synonyms in self.classes]


def read_class_list(path: str | Path) -> ClassList:
    """Read a class list file, or a list of the package by its bare name (``coco133``, ``ade150``).

    Returns:
        The classes in id order, all of them stuff. A list of the package is named by its stem, any
        other by its path.

    Raises:
        UserError: see :func:`parse_class_list`.
    """
    return read_ids_and_classes(path)[1]


def read_ids_and_classes(path: str | Path) -> tuple[tuple[int, ...], ClassList]:
    """Read a class list like :func:`read_class_list`, together with the label id of each class."""
    classes = sorted(parse_class_list(path).items())
    file = find_class_list(path)
    name = file.stem if file.resolve().is_relative_to(PACKAGE) else str(path)
    class_list = ClassList(name, tuple(names for _, names in classes))
    return tuple(label_id for label_id, _ in classes), class_list


def find_class_list(path: str | Path) -> Path:
    """The file that ``path`` names: a list of the package by its bare name, or else the path."""
    shipped = CLASS_LISTS / f"{path}{LIST_SUFFIX}"
    return shipped if shipped.parent == CLASS_LISTS and shipped.is_file() else Path(path)


def choose_classes(text: str) -> ClassList:
    """Read the classes that a person typed.

    Args:
        text: ``"cat, kitten; sofa"`` (synonyms separated by commas, classes by semicolons), the
            path of a class list file, or the bare name of a list of the package.

    Raises:
        UserError: no class, a class without a name, or a class list file with an error.
    """
    # Looking for a file named by hundreds of classes would be an error.
    is_path = ";" not in text and "," not in text
    if is_path and (find_class_list(text).is_file() or Path(text).suffix == LIST_SUFFIX):
        return read_class_list(text)
    classes = [part for part in text.split(";") if part.strip()]
    return ClassList.from_strings("given classes", classes)


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


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colors (R, G, B) that differ between neighbors: hues by the golden ratio, two tones."""
    colors = []
    for index in range(count):
        hue = index * 0.618034 % 1.0
        rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95 - 0.3 * (index // 2 % 2))
        red, green, blue = (round(255 * channel) for channel in rgb)
        colors.append((red, green, blue))
    return colors
