"""The exception for errors that the user can fix."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

# Packages that are not on PyPI and therefore not declared as dependencies.
INSTALLED_APART = ("detectron2", "panopticapi")
_LONGEST_SHOWN = 120
# Characters that end a line, move the cursor of a terminal, or turn the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """Error in the user's input, such as a file, a config key or a class list.

    The message is one line with the problem, its location and the fix. Commands print it without a
    traceback and exit with a non-zero code.
    """


class WriteError(UserError):
    """A file cannot be written, for example because the disk is full."""


def missing_module(error: ModuleNotFoundError) -> str:
    """Return the install hint for a missing package of ``INSTALLED_APART``; "" for others."""
    package = (error.name or "").partition(".")[0]
    if package not in INSTALLED_APART:
        return ""
    return f"{package} is not installed; install it with: ita install-detectron2"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the closest known word: "did you mean X?", or "" if none is close."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {nearest[0]}?" if nearest else ""


def shown(value: Any) -> str:
    """Show a value in a message: on one line, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def reason_of(error: BaseException) -> str:
    """Text of an error, in one line and without the path that messages name; else its type."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return text or type(error).__name__


def one_line(message: object) -> str:
    """Format a message for a terminal: control characters, as names of files have them, escaped."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], str(message))
