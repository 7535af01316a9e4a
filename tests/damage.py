"""Damages of files: cut, flipped and spliced bytes, and odd values in JSON and YAML."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import yaml

ODD_VALUES = (None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x", "é\0", [], {})
ODD_VALUES += ("\ud800", [None], {"a": 1}, [[[]]], "../../x", "a" * 5000, [1, 2], ["x"], {"x": []})


def damaged(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield variants of a file's content, the same for a seed."""
    rng = random.Random(seed)
    yield b""
    for _ in range(count - 1):
        yield rng.choice(DAMAGES)(content, rng)


def with_odd_values(value: Any, count: int, seed: int = 0) -> Iterator[Any]:
    """Yield variants of nested lists and dicts with an entry replaced, removed or added."""
    rng = random.Random(seed)
    yield from ODD_VALUES
    for _ in range(count - len(ODD_VALUES)):
        variant = copy.deepcopy(value)
        places = list(_places(variant))
        parent, key = rng.choice(places)
        action = rng.random()
        if action < 0.15:
            del parent[key]
        elif action < 0.25 and isinstance(parent, dict):
            parent[rng.choice(["", "x", "id"])] = parent[key]
        elif action < 0.4:
            other_parent, other_key = rng.choice(places)
            parent[key] = copy.deepcopy(other_parent[other_key])
        else:
            parent[key] = rng.choice(ODD_VALUES)
        yield variant


def as_json(value: Any) -> bytes:
    """Format as JSON, with the numbers that Python's parser accepts besides."""
    return json.dumps(value).encode()


def as_yaml(value: Any) -> bytes:
    """Format as YAML."""
    return yaml.safe_dump(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        yield value, key
        if isinstance(entry, dict | list):
            yield from _places(entry)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _flip(content: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(content)
    # Mostly in the first kilobyte, where formats describe the rest.
    end = len(content) if rng.random() < 0.5 else min(len(content), 1000)
    for _ in range(rng.choice((1, 2, 8))):
        flipped[rng.randrange(end)] = rng.randrange(256)
    return bytes(flipped)


def _remove(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice((1, 4, 100)) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    piece = content[start : start + rng.choice((1, 8, 200))]
    place = rng.randrange(len(content))
    return content[:place] + piece * rng.choice((1, 50)) + content[place:]


def _blank(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    size = min(rng.choice((2, 16, 500)), len(content) - start)
    return content[:start] + rng.choice((b"\0", b"\xff", b"[")) * size + content[start + size :]


DAMAGES = (_cut, _flip, _remove, _repeat, _blank)
