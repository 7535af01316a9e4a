"""Class lists: the names of the classes to segment, and their file format.

A file has one class per line, ``id: name, synonym, synonym``. In published lists
(``id:name,synonym``), lines named ``invalid_class_id`` mark ids without a class and are dropped.
The remaining lines are the classes, in id order; ids may have gaps.
"""

import codecs
import colorsys
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ita.errors import UserError, did_you_mean
from ita.files import PACKAGE, find_file

logger = logging.getLogger(__name__)

CLASS_LISTS = PACKAGE / "class_lists"
INVALID_NAME = "invalid_class_id"
LIST_SUFFIX = ".txt"
_ID = re.compile(r"\s*\d+\s*:")


@dataclass(frozen=True)
class ClassList:
    """Classes, each with its synonyms; the first synonym is the name of the class.

    Attributes:
        name: identifies the list in results.
        classes: synonyms of each class, in the order of the class ids.
        things: ids of the thing classes; all others are stuff.
        label_ids: label id of each class in its file, which reports show; 0 to C - 1 by default.
            Not part of the list's identity, and not stored in checkpoints.
    """

    name: str
    classes: tuple[tuple[str, ...], ...]
    things: frozenset[int] = frozenset()
    label_ids: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.label_ids:
            object.__setattr__(self, "label_ids", tuple(range(len(self.classes))))
        if len(self.label_ids) != len(self.classes):
            raise UserError(
                f"class list {self.name} has {len(self.label_ids)} label ids for "
                f"{len(self.classes)} classes"
            )
        if not self.classes:
            raise UserError(f"class list {self.name} is empty; give at least one class")
        for index, synonyms in enumerate(self.classes):
            if isinstance(synonyms, str):
                raise UserError(
                    f"class {index} of class list {self.name} is text, not a tuple of synonyms; "
                    "ClassList.from_strings takes texts"
                )
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
        """Create a class list from one string of comma-separated synonyms per class.

        Raises:
            UserError: no classes, or a class without a name.
        """
        if isinstance(classes, str):
            raise UserError(
                f"class list {name}: give a list of strings, not the string {classes!r}"
            )
        if not isinstance(classes, Iterable):
            raise UserError(f"class list {name}: give a list of strings, not {classes!r}")
        classes = list(classes)
        if other := [c for c in classes if not isinstance(c, str)]:
            raise UserError(
                f"class list {name}: a class is a string such as 'cat, kitten', not {other[0]!r}"
            )
        split = (tuple(s.strip() for s in synonyms.split(",")) for synonyms in classes)
        return cls(name, tuple(split), frozenset(things))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ClassList":
        """Restore a class list from the output of :meth:`to_dict`.

        Raises:
            UserError: the values are malformed.
        """
        try:
            classes = tuple(tuple(map(str, synonyms)) for synonyms in content["classes"])
            things = frozenset(map(int, content["things"]))
            return cls(str(content["name"]), classes, things)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a stored class list ({type(error).__name__}: {error})") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the class list as plain values for JSON and checkpoints."""
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
        """All N synonyms of all classes, in order, not deduplicated."""
        return tuple(s for synonyms in self.classes for s in synonyms)

    @property
    def class_index(self) -> tuple[int, ...]:
        """The class of each of the N synonyms."""
        return tuple(i for i, synonyms in enumerate(self.classes) for _ in synonyms)

    def __len__(self) -> int:
        return len(self.classes)

    def seen(self, training: "ClassList") -> list[bool]:
        """Return whether each class is seen, i.e. shares an exact synonym with ``training``."""
        known = set(training.synonyms)
        return [not known.isdisjoint(synonyms) for synonyms in self.classes]


def read_class_list(path: str | Path) -> ClassList:
    """Read a class list file, or a packaged list by its bare name (``coco133``, ``ade150``).

    Returns:
        The classes in id order, all of them stuff. A packaged list is named by its file stem, any
        other list by its path.

    Raises:
        UserError: see :func:`parse_class_list`.
    """
    return read_ids_and_classes(path)[1]


def read_ids_and_classes(path: str | Path) -> tuple[tuple[int, ...], ClassList]:
    """Read a class list like :func:`read_class_list`, together with the label id of each class."""
    classes = sorted(parse_class_list(path).items())
    file = find_class_list(path)
    name = file.stem if file.resolve().is_relative_to(PACKAGE) else str(path)
    label_ids = tuple(label_id for label_id, _ in classes)
    class_list = ClassList(name, tuple(names for _, names in classes), label_ids=label_ids)
    return label_ids, class_list


def find_class_list(path: str | Path) -> Path:
    """Return the packaged file if ``path`` is the bare name of one, else that of ``find_file``."""
    shipped = CLASS_LISTS / f"{path}{LIST_SUFFIX}"
    is_shipped = shipped.parent == CLASS_LISTS and os.path.isfile(shipped)
    return shipped if is_shipped else find_file(path)


def shipped_class_lists() -> list[str]:
    """Bare names of the packaged class lists."""
    return sorted(path.stem for path in CLASS_LISTS.glob(f"*{LIST_SUFFIX}"))


def choose_classes(text: str) -> ClassList:
    """Parse classes from user input.

    Args:
        text: ``"cat, kitten; sofa"`` (synonyms separated by commas, classes by semicolons), the
            path of a class list file, with or without ids, or the bare name of a packaged list.

    Raises:
        UserError: no class, a class without a name, or an invalid class list file.
    """
    # os.path.isfile, since Path.is_file raises OSError for a text that is too long for a file name.
    if os.path.isfile(find_class_list(text)) or Path(text).suffix == LIST_SUFFIX:
        lines = [line for line in _read_lines(find_class_list(text)) if _is_entry(line)]
        if lines and not any(_ID.match(line) for line in lines):
            return ClassList.from_strings(text, lines)
        return read_class_list(text)
    if not {";", ","} & set(text) and (hint := did_you_mean(text, shipped_class_lists())):
        raise UserError(f"no class list {text}; {hint} (for a class of this name: '{text};')")
    classes = [part for part in text.split(";") if part.strip()]
    return ClassList.from_strings("given classes", classes)


def mark_things(class_list: ClassList, names: Sequence[str]) -> ClassList:
    """Mark classes as things, by any of their names; all others are stuff.

    Raises:
        UserError: a name is that of no class.
    """
    things = set()
    for name in names:
        found = {i for i, synonyms in enumerate(class_list.classes) if name in synonyms}
        if not found:
            hint = did_you_mean(name, class_list.synonyms) or "name classes of the list"
            raise UserError(f"thing {name!r} is not a class; {hint}")
        things |= found
    return replace(class_list, things=frozenset(things))


def parse_class_list(path: str | Path) -> dict[int, tuple[str, ...]]:
    """Parse a class list file into label id -> synonyms.

    Raises:
        UserError: the file is missing, not UTF-8 or contains no class, a line has no id or name, or
            an id or a whole line of names is repeated. The message names the file and the line.
    """
    path = find_class_list(path)
    classes: dict[int, tuple[str, ...]] = {}
    seen_at: dict[int | tuple[str, ...], int] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not _is_entry(line):
            continue
        label_id, names = _parse_line(line, f"{path}:{number}")
        if names == (INVALID_NAME,):
            continue
        for key, entry in ((label_id, f"id {label_id}"), (names, f"class {', '.join(names)!r}")):
            if key in seen_at:
                raise UserError(f"{path}:{number}: {entry} is already on line {seen_at[key]}")
            seen_at[key] = number
        classes[label_id] = names
    if not classes:
        raise UserError(f"{path}: the class list is empty; write one 'id: name, synonym' per line")
    return classes


def format_class_list(class_list: ClassList) -> str:
    """Format a class list as the text of a file, with the indices of the classes as ids."""
    return "".join(f"{i}: {', '.join(names)}\n" for i, names in enumerate(class_list.classes))


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


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
    # Not splitlines(), which also splits at characters that a name may contain.
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


@dataclass(frozen=True)
class Merge:
    """A class of a training list with names of several classes of a test list.

    The logit of a class is the maximum over its names, so training does not separate the classes
    covered, and all of them count as seen.

    Attributes:
        training: index of the class in the training list.
        covered: indices of the classes of the test list, ascending, at least two.
    """

    training: int
    covered: tuple[int, ...]


def merges(training: ClassList, test: ClassList) -> list[Merge]:
    """Find the classes of a training list that share exact names with several of a test list.

    Returns:
        One merge per class of the training list that has any, in its order.
    """
    owners: dict[str, list[int]] = {}
    for index, synonyms in enumerate(test.classes):
        for name in set(synonyms):
            owners.setdefault(name, []).append(index)
    found = []
    for index, synonyms in enumerate(training.classes):
        covered = sorted({owner for name in synonyms for owner in owners.get(name, ())})
        if len(covered) > 1:
            found.append(Merge(index, tuple(covered)))
    return found


def note_repetitions(class_list: ClassList) -> None:
    """Log names shared by several classes: allowed, but their logits tie."""
    first = Counter(class_list.names)
    # As a set: a name repeated within one class is not shared.
    every = Counter(name for names in class_list.classes for name in set(names))
    for kind, counts in (("first names", first), ("synonyms", every)):
        shared = [name for name, count in counts.items() if count > 1]
        if shared:
            logger.info(
                "class list %s: %d %s are shared by several classes: %s",
                class_list.name,
                len(shared),
                kind,
                ", ".join(sorted(shared)),
            )


def palette(count: int) -> list[tuple[int, int, int]]:
    """Return (R, G, B) colors, distinct for neighbors: golden-ratio hues in alternating tones."""
    colors = []
    for index in range(count):
        hue = index * 0.618034 % 1.0
        rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95 - 0.3 * (index // 2 % 2))
        red, green, blue = (round(255 * channel) for channel in rgb)
        colors.append((red, green, blue))
    return colors
