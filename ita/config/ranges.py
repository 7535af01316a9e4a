"""Ranges of config values, and the declaration of a key with its range."""

import math
import re
from dataclasses import dataclass
from typing import Any, Protocol

# Limit of integers without a maximum of their own: that of PyTorch's indices and of C libraries.
LARGEST = 2**31 - 1


class Range(Protocol):
    """Allowed values of a key; its text completes "it must be ..."."""

    def coerce(self, value: Any) -> Any:
        """Convert a value as it is written to the key's type, if it can be; else return it."""

    def __contains__(self, value: Any) -> bool:
        """Whether a value has the type and lies within the range."""

    def __str__(self) -> str: ...


class _AsWritten:
    """Base of ranges whose values have their type as they are written."""

    def coerce(self, value: Any) -> Any:
        return value


class Switch(_AsWritten):
    """True or False."""

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class Integer(_AsWritten):
    """An integer from ``minimum`` to ``maximum``, or one of ``also``."""

    minimum: int
    maximum: int = LARGEST
    multiple_of: int = 1
    also: tuple[int, ...] = ()

    def __contains__(self, value: Any) -> bool:
        if type(value) is not int:  # not bool, which is an int too
            return False
        within = self.minimum <= value <= self.maximum and value % self.multiple_of == 0
        return within or value in self.also

    def __str__(self) -> str:
        kind = "an integer" if self.multiple_of == 1 else f"a multiple of {self.multiple_of}"
        return " or ".join([*map(str, self.also), f"{kind} from {self.minimum} to {self.maximum}"])


@dataclass(frozen=True)
class Number:
    """A number from ``minimum`` to ``maximum``; 0 and infinity are among them by request."""

    minimum: float = 0
    maximum: float = math.inf
    zero: bool = True
    infinite: bool = False

    def coerce(self, value: Any) -> Any:
        if type(value) is int and abs(value) <= LARGEST:
            return float(value)
        return value

    def __contains__(self, value: Any) -> bool:
        return (
            type(value) is float
            and (self.infinite or math.isfinite(value))
            and self.minimum <= value <= self.maximum
            and (self.zero or value != 0)
        )

    def __str__(self) -> str:
        if not self.zero:
            upper = f" and at most {self.maximum:g}" if math.isfinite(self.maximum) else ""
            return f"a number above {self.minimum:g}{upper}"
        if math.isfinite(self.maximum):
            return f"a number from {self.minimum:g} to {self.maximum:g}"
        return f"a number of at least {self.minimum:g}"


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    choices: tuple[Any, ...]

    def coerce(self, value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    def __contains__(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def __str__(self) -> str:
        return f"{'one of ' if self.choices[1:] else ''}{', '.join(map(repr, self.choices))}"


@dataclass(frozen=True)
class Text(_AsWritten):
    """A text that a file can contain, such as a path."""

    may_be_empty: bool = True

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, str) and _is_plain(value) and (self.may_be_empty or value != "")

    def __str__(self) -> str:
        return "text" if self.may_be_empty else "text that is not empty"


@dataclass(frozen=True)
class Matching(_AsWritten):
    """A text of a form that ``described`` describes."""

    pattern: str
    described: str

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value, re.ASCII) is not None

    def __str__(self) -> str:
        return self.described


@dataclass(frozen=True)
class Texts:
    """A tuple of texts; a single one may be written without parentheses."""

    at_least_one: bool = False
    may_be_empty: bool = False

    def coerce(self, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    def __contains__(self, value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and (len(value) > 0 or not self.at_least_one)
            and all(entry in Text(self.may_be_empty) for entry in value)
        )

    def __str__(self) -> str:
        return f"a tuple of {'at least one text' if self.at_least_one else 'texts'}"


@dataclass(frozen=True)
class Increasing:
    """A tuple of increasing integers, the first of at least ``minimum``."""

    minimum: int

    def coerce(self, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def __contains__(self, value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and all(entry in Integer(self.minimum) for entry in value)
            and list(value) == sorted(set(value))
        )

    def __str__(self) -> str:
        return f"a tuple of increasing integers from {self.minimum} to {LARGEST}"


def _is_plain(text: str) -> bool:
    """Whether a text has no control characters and no bytes that are not UTF-8."""
    return not any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text)


@dataclass(frozen=True)
class Key:
    """A config key that ITA reads."""

    name: str  # dotted
    default: Any  # None keeps that of Detectron2
    range: Range
    meaning: str
