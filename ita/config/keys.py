"""All config keys that ITA reads, as one table."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode

from ita.config.detectron2_keys import DETECTRON2_KEYS
from ita.config.model_keys import MODEL_KEYS
from ita.config.ranges import Key
from ita.config.run_keys import RUN_KEYS

# ITA's keys: title of a group -> its keys.
ITA_KEYS: dict[str, tuple[Key, ...]] = {**MODEL_KEYS, **RUN_KEYS}
# Dotted name -> key, of ITA's and of those of Detectron2 that ITA reads.
KEYS: dict[str, Key] = {
    key.name: key for group in (*ITA_KEYS.values(), DETECTRON2_KEYS) for key in group
}


def add_ita_config(cfg: CfgNode) -> None:
    """Add ITA's keys and defaults to a Detectron2 config, in place."""
    for key in (key for group in ITA_KEYS.values() for key in group):
        *groups, name = key.name.split(".")
        node = cfg
        for group in groups:
            if group not in node:
                node[group] = CfgNode()
            node = node[group]
        # Every config has a list of its own.
        node[name] = list(key.default) if isinstance(key.default, list) else key.default


def get_value(cfg: CfgNode, name: str) -> Any:
    """Return the value of a dotted key."""
    return functools.reduce(getattr, name.split("."), cfg)


def set_value(cfg: CfgNode, name: str, value: Any) -> None:
    """Set the value of a dotted key, in place."""
    group, _, last = name.rpartition(".")
    node = get_value(cfg, group) if group else cfg
    node[last] = value


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the (dotted key, value) pairs of a nested mapping."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
