"""Appearance of the toy world: shape masks, object coats and ground textures.

Every texture is a function of a random generator and pixel coordinates and returns RGB in [0, 1].
"""

from collections.abc import Callable

import numpy as np

RGB = tuple[float, float, float]
# (u, v, radius), coordinates relative to an object's center and size -> mask, bool [H, W].
ShapeMask = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# (generator, y, x), pixel coordinates [H, W] -> texture, float [H, W, 3].
Texture = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


def _star(u: np.ndarray, v: np.ndarray, radius: np.ndarray) -> np.ndarray:
    tip, notch, half = 1.08, 0.45, np.pi / 5
    # Angle to the nearest of the five tips, at most half the angle between two tips.
    angle = np.abs((np.arctan2(u, -v) + half) % (2 * half) - half)
    # The straight edge from tip to notch, in polar coordinates.
    edge = tip * notch * np.sin(half) / (tip * np.sin(angle) + notch * np.sin(half - angle))
    return radius < edge


def _heart(u: np.ndarray, v: np.ndarray, radius: np.ndarray) -> np.ndarray:
    x, y = 1.2 * u, 0.15 - 1.2 * v
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def _arrow(u: np.ndarray, v: np.ndarray, radius: np.ndarray) -> np.ndarray:
    shaft = (abs(u) < 0.24) & (v > -0.2) & (v < 0.95)
    head = (v > -0.95) & (v < 0.0) & (abs(u) < (v + 0.95) * 0.8)
    return shaft | head


def _flower(u: np.ndarray, v: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return radius < 0.68 + 0.3 * np.cos(6 * np.arctan2(u, v))


def _drop(u: np.ndarray, v: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return (u**2 + (v - 0.35) ** 2 < 0.36) | ((v < 0.35) & (v > -1) & (abs(u) < (v + 1) * 0.44))


SHAPE_MASKS: dict[str, ShapeMask] = {
    "circle": lambda u, v, radius: radius < 0.9,
    "square": lambda u, v, radius: np.maximum(abs(u), abs(v)) < 0.8,
    "triangle": lambda u, v, radius: (v < 0.75) & (abs(u) < (v + 1.1) * 0.58),
    "ring": lambda u, v, radius: (radius < 1.0) & (radius > 0.5),
    "star": _star,
    "cross": lambda u, v, radius: (
        (np.minimum(abs(u), abs(v)) < 0.33) & (np.maximum(abs(u), abs(v)) < 0.95)
    ),
    "heart": _heart,
    "moon": lambda u, v, radius: (radius < 1.0) & ((u - 0.5) ** 2 + v**2 > 0.64),
    "arrow": _arrow,
    "bar": lambda u, v, radius: (abs(u) < 0.36) & (abs(v) < 1.1),
    "flower": _flower,
    "drop": _drop,
}

_COLORS: dict[str, RGB] = {
    "red": (0.85, 0.1, 0.12),
    "yellow": (0.97, 0.86, 0.12),
    "blue": (0.12, 0.2, 0.85),
    "purple": (0.55, 0.14, 0.66),
    "white": (0.94, 0.94, 0.95),
    "green": (0.1, 0.85, 0.35),
    "black": (0.09, 0.09, 0.1),
}


def _plain(color: RGB) -> Texture:
    def texture(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        tint = np.asarray(color) + rng.uniform(-0.06, 0.06, 3)
        return np.broadcast_to(tint, (*y.shape, 3))

    return texture


def _waves(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    """Sine wave along a random direction, [H, W]."""
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    return np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)


def _tones(where: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    return np.where(where[..., None], inside, outside)


def _dark(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.05, 0.45, 3)


def _light(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.65, 1.0, 3)


def _striped(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _tones(_waves(rng, y, x, rng.uniform(7, 10)) > 0, _light(rng), _dark(rng))


def _dotted(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    period, angle = rng.uniform(7, 9.5), rng.uniform(0, np.pi)
    u = (x * np.cos(angle) + y * np.sin(angle)) / period + rng.random()
    v = (y * np.cos(angle) - x * np.sin(angle)) / period + rng.random()
    return _tones(np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3, _dark(rng), _light(rng))


def _checkered(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Black and white checkerboard."""
    side, angle = rng.uniform(5.5, 7.5), rng.uniform(0, np.pi)
    u = np.floor((x * np.cos(angle) + y * np.sin(angle)) / side + rng.random())
    v = np.floor((y * np.cos(angle) - x * np.sin(angle)) / side + rng.random())
    black, white = rng.uniform(0.05, 0.15), rng.uniform(0.85, 1.0)
    return _tones((u + v) % 2 == 0, np.full(3, black), np.full(3, white))


COAT_TEXTURES: dict[str, Texture] = {
    **{name: _plain(color) for name, color in _COLORS.items()},
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
}


def _tint(color: RGB, brightness: np.ndarray) -> np.ndarray:
    return np.asarray(color) * brightness[..., None]


def _grass(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    blades = rng.normal(size=y.shape)
    blades = np.sum([np.roll(blades, shift, axis=0) for shift in range(4)], axis=0) / 2
    return _tint((0.25, 0.5, 0.2), 1 + 0.16 * blades)


def _water(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    length, phase = rng.uniform(5, 9), rng.uniform(0, 2 * np.pi)
    swell = np.sin(2 * np.pi * y / length + phase + 1.5 * np.sin(x / rng.uniform(6, 12)))
    return _tint((0.2, 0.55, 0.66), 1 + 0.14 * swell)


def _sand(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _tint((0.83, 0.7, 0.47), 1 + 0.09 * rng.normal(size=y.shape))


def _brick_wall(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    height, width = rng.uniform(6, 9), rng.uniform(13, 18)
    row = np.floor(y / height)
    column = np.floor(x / width + 0.5 * (row % 2))
    shade = rng.normal(size=(64, 64))[row.astype(int) % 64, column.astype(int) % 64]
    mortar = (y % height < 1.2) | ((x / width + 0.5 * (row % 2)) % 1 * width < 1.2)
    return np.where(mortar[..., None], 0.72, _tint((0.55, 0.27, 0.2), 1 + 0.1 * shade))


def _cells(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    """Distances to the two nearest of randomly scattered points, [2, H, W], in ``side``."""
    rows, columns = int(y.max() / side) + 2, int(x.max() / side) + 2
    offset = rng.random((2, rows + 2, columns + 2))
    row, column = (y / side).astype(int), (x / side).astype(int)
    distances = [
        np.hypot(
            y / side - (row + i) - offset[0, row + i + 1, column + j + 1],
            x / side - (column + j) - offset[1, row + i + 1, column + j + 1],
        )
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    return np.partition(np.stack(distances), 1, axis=0)[:2]


def _gravel(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    nearest, second = _cells(rng, y, x, rng.uniform(5, 7))
    stone = 0.35 + 0.5 * np.minimum(second - nearest, 0.6) + 0.05 * rng.normal(size=y.shape)
    return _tint((0.95, 0.95, 1.0), stone)


def _wood_floor(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    width = rng.uniform(10, 14)
    plank = np.floor(x / width).astype(int)
    tone = 1 + 0.12 * rng.normal(size=64)[plank % 64]
    grain = 0.06 * np.sin(x * 1.7 + 2 * np.sin(y / rng.uniform(9, 15) + 3 * plank))
    gap = x % width < 1.2
    return np.where(gap[..., None], 0.22, _tint((0.66, 0.43, 0.24), tone + grain))


def _snow(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    drifts = 0.04 * np.sin(y / rng.uniform(8, 14) + np.sin(x / rng.uniform(8, 20)))
    return _tint((0.9, 0.94, 1.0), 1 + drifts + 0.02 * rng.normal(size=y.shape))


def _lava(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    nearest, second = _cells(rng, y, x, rng.uniform(12, 16))
    glow = np.clip(1 - 4 * (second - nearest), 0, 1)[..., None]
    return glow * np.array((1.0, 0.5, 0.1)) + (1 - glow) * np.array((0.2, 0.08, 0.07))


GROUND_TEXTURES: dict[str, Texture] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "brick wall": _brick_wall,
    "gravel": _gravel,
    "wood floor": _wood_floor,
    "snow": _snow,
    "lava": _lava,
}
