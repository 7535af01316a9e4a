"""Loading of configs: YAML files, the files they inherit from, and overrides."""

import ast
import difflib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from ita.ancestor_keys import COMMAND_LINE, Setting, translate
from ita.config.keys import KEYS, add_ita_config, flatten, set_value
from ita.config.ranges import Text
from ita.config.validation import validate_config
from ita.errors import UserError
from ita.structured_files import StrictLoader, read_yaml

logger = logging.getLogger(__name__)

BASE = "_BASE_"


def load_config(
    config_file: str | Path,
    overrides: Sequence[str] = (),
    warn: Callable[[str], None] = logger.warning,
) -> CfgNode:
    """Load a YAML config, apply command-line overrides and validate the result.

    Args:
        config_file: YAML file; its ``_BASE_`` names the config it inherits from.
        overrides: ``KEY VALUE KEY VALUE ...`` as on the command line.
        warn: called with each line about keys of Mask2Former and FC-CLIP that are replaced or have
            no effect.

    Raises:
        UserError: the file is missing or unreadable, a key is unknown, or a value is invalid or of
            the wrong type.
    """
    path = Path(config_file)
    if not os.path.isfile(path):
        raise UserError(f"config file not found: {path}")
    if len(overrides) % 2:
        raise UserError(f"overrides must be KEY VALUE pairs, but {overrides[-1]} has no value")
    cfg = get_cfg()
    add_ita_config(cfg)
    content, has_base = _read_with_bases(path, ())
    source = f"{path} (or its {BASE})" if has_base else str(path)
    settings = _settings(flatten(content), source)
    settings |= _settings(zip(overrides[::2], overrides[1::2], strict=True), COMMAND_LINE)
    settings, lines = translate(settings, dict(flatten(cfg)))
    for line in lines:
        warn(line)
    _merge(cfg, settings)
    validate_config(cfg)
    return cfg


class _ConfigLoader(StrictLoader):
    """YAML loader that takes Mask2Former's Python expressions as texts.

    They set training sizes, which have no effect here, and must not be evaluated.
    """


def _expression(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []


_ConfigLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _expression)


def _read_with_bases(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], bool]:
    """Read a YAML config, merged over the files that its ``_BASE_`` names.

    Args:
        path: the file.
        above: absolute paths of the files that inherit from it.

    Returns:
        The merged content, and whether the file has bases.
    """
    absolute = path.absolute().resolve()
    if absolute in above:
        raise UserError(f"cannot read config {above[0]}: its {BASE} chain is circular")
    content = read_yaml(path, "config", _ConfigLoader)
    if not isinstance(content, dict) or not content:
        raise UserError(f"cannot read config {path}: it has no 'KEY: value' lines")
    names = content.pop(BASE, ())
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(name in Text(False) for name in names):
        raise UserError(f"cannot read config {path}: its {BASE} is no file name")
    merged: dict[str, Any] = {}
    for name in names:
        if "://" in name:
            raise UserError(f"cannot read config {path}: its {BASE} {name} is no local file")
        base = Path(os.path.join(path.parent, os.path.expanduser(name)))
        _merge_over(merged, _read_with_bases(base, (*above, absolute))[0], path)
    _merge_over(merged, content, path)
    return merged, bool(names)


def _merge_over(merged: dict[str, Any], content: Mapping[str, Any], path: Path) -> None:
    """Merge nested settings over others, in place."""
    for key, value in content.items():
        if not isinstance(value, dict):
            merged[key] = value
        elif isinstance(merged.setdefault(key, {}), dict):
            _merge_over(merged[key], value, path)
        else:
            raise UserError(f"cannot read config {path}: its {BASE} sets {key} to a single value")


def _settings(items: Iterable[tuple[str, Any]], source: str) -> dict[str, Setting]:
    """Decode the values of (dotted key, value) pairs, which may be Python literals in a string."""
    return {key: Setting(_decode(key, value, source), source) for key, value in items}


def _decode(key: str, value: Any, source: str) -> Any:
    try:
        if isinstance(value, str):
            value = _literal(value)
        repr(value)  # so that every message can show it
    except (MemoryError, RecursionError, ValueError) as error:
        raise UserError(f"{key} in {source} has a value that is too long or too deep") from error
    return value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError):
        return text


def _merge(cfg: CfgNode, settings: Mapping[str, Setting]) -> None:
    """Merge settings by dotted key; the error for an unknown key suggests the closest one."""
    known = dict(flatten(cfg))
    for key, (value, source) in settings.items():
        if key not in known:
            raise UserError(f"unknown config key {key} in {source}{_did_you_mean(key, known)}")
        if key in KEYS:
            set_value(cfg, key, KEYS[key].range.coerce(value))
            continue
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            raise UserError(f"bad value in {source}: {' '.join(str(error).split())}") from error


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    """Suggest the closest known key, by its full path or else by its last component."""
    known = list(known)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not nearest:
        last = key.rpartition(".")[2].lower()
        by_last_part = {name.rpartition(".")[2].lower(): name for name in known}
        nearest = [by_last_part[m] for m in difflib.get_close_matches(last, by_last_part, n=1)]
    return f"; did you mean {nearest[0]}?" if nearest else ""
