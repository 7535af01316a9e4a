"""Parsing of YAML and JSON that anyone may have written."""

import json
from pathlib import Path
from typing import Any

import yaml

from ita.errors import UserError, reason_of

# Limits of a YAML file: bytes, levels, and values once the aliases (*name) are replaced.
_MOST_BYTES, _MOST_LEVELS, _MOST_VALUES = 2**20, 50, 100_000


class StrictLoader(yaml.SafeLoader):
    """Safe YAML loader that rejects a key which a mapping contains twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, to whose keys those of others (<<) are not added yet."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(
                        None, None, f"{key.value!r} is there twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def read_yaml(path: Path, kind: str = "", loader: type[yaml.SafeLoader] = StrictLoader) -> Any:
    """Read a YAML file of limited size, without objects other than YAML's own.

    Args:
        path: the file.
        kind: what it is, for messages.
        loader: constructs the values.

    Raises:
        UserError: the file is missing, unreadable, no YAML, not UTF-8, or exceeds a limit.
    """
    what = f"{kind} {path}" if kind else str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"cannot read {what}: it has more than {_MOST_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
        _check_limits(text, what)
        return yaml.load(text, loader)  # noqa: S506  a subclass of SafeLoader
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what}: {reason_of(error)}") from error
    # PyYAML's constructors of numbers, dates and sets raise these where a value has another form.
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"cannot read {what}: a value is invalid ({reason_of(error)})") from error


def _check_limits(text: str, what: str) -> None:
    """Check depth, and the number of values with aliases replaced, before anything is built."""
    sizes = [0]  # values so far in each open collection
    anchors: list[str | None] = []
    size_of: dict[str | None, int] = {}
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size = size_of[anchors.pop()] = sizes.pop()
            sizes[-1] += size
        elif isinstance(event, yaml.ScalarEvent):
            size_of[event.anchor] = 1
            sizes[-1] += 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise UserError(f"cannot read {what}: *{event.anchor} contains itself")
            sizes[-1] += size_of.get(event.anchor, 1)
        if len(sizes) > _MOST_LEVELS:
            raise UserError(f"cannot read {what}: it has more than {_MOST_LEVELS} levels")
        if sum(sizes) > _MOST_VALUES:
            raise UserError(f"cannot read {what}: it has more than {_MOST_VALUES:,} values")


def parse_json(content: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is no JSON, or nested too deeply for Python's parser.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
