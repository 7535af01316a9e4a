"""Synthetic scenes: flat shapes over textured ground, with the true segments.

Shapes have a color of their class, varied and patterned; ground classes differ in color and
texture. Objects hide what is under them. A few scenes have an unlabelled patch or a crowd of small
objects.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# A mask from coordinates relative to an object's center and size: (u, v, radius) -> bool [H, W].
ShapeMask = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

MAX_OBJECTS = 5
# Objects and ground that show fewer pixels than this are no segments.
MIN_AREA = 24


@dataclass(frozen=True)
class Segment:
    """A segment of a scene: its class name and bool mask [H, W]."""

    name: str
    mask: np.ndarray
    is_crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """An image, uint8 [H, W, 3] RGB, and its segments, which do not overlap."""

    image: np.ndarray
    segments: tuple[Segment, ...]


def _star(u: np.ndarray, v: np.ndarray, radius: np.ndarray) -> np.ndarray:
    tip, notch, half = 1.05, 0.45, np.pi / 5
    # Angle from the nearest of five tips, up to half the angle between two.
    angle = np.abs((np.arctan2(u, -v) + half) % (2 * half) - half)
    # The straight edge from tip to notch, in polar coordinates.
    edge = tip * notch * np.sin(half) / (tip * np.sin(angle) + notch * np.sin(half - angle))
    return radius < edge


SHAPES: dict[str, tuple[ShapeMask, tuple[float, float, float]]] = {
    "circle": (lambda u, v, radius: radius < 0.9, (0.85, 0.12, 0.15)),
    "square": (lambda u, v, radius: np.maximum(abs(u), abs(v)) < 0.8, (0.52, 0.16, 0.66)),
    "triangle": (lambda u, v, radius: (v < 0.7) & (abs(u) < (v + 1.1) * 0.6), (0.98, 0.52, 0.08)),
    "ring": (lambda u, v, radius: (radius < 1.0) & (radius > 0.5), (0.95, 0.95, 0.95)),
    "star": (_star, (0.97, 0.9, 0.15)),
    "cross": (
        lambda u, v, radius: (
            (np.minimum(abs(u), abs(v)) < 0.33) & (np.maximum(abs(u), abs(v)) < 0.95)
        ),
        (0.12, 0.12, 0.14),
    ),
}


def _grass(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    blades = rng.normal(size=y.shape)
    blades = sum(np.roll(blades, shift, axis=0) for shift in range(4)) / 2
    return _tint((0.25, 0.55, 0.2), 1 + 0.16 * blades)


def _water(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    length, phase = rng.uniform(5, 9), rng.uniform(0, 2 * np.pi)
    waves = np.sin(2 * np.pi * y / length + phase + 1.5 * np.sin(x / rng.uniform(6, 12)))
    return _tint((0.18, 0.42, 0.75), 1 + 0.14 * waves)


def _sand(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _tint((0.83, 0.7, 0.47), 1 + 0.09 * rng.normal(size=y.shape))


def _brick_wall(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    height, width = rng.uniform(6, 9), rng.uniform(13, 18)
    row = np.floor(y / height)
    column = np.floor(x / width + 0.5 * (row % 2))
    shade = rng.normal(size=(64, 64))[row.astype(int) % 64, column.astype(int) % 64]
    mortar = (y % height < 1.2) | ((x / width + 0.5 * (row % 2)) % 1 * width < 1.2)
    return np.where(mortar[..., None], 0.72, _tint((0.55, 0.27, 0.2), 1 + 0.1 * shade))


GROUNDS: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "brick wall": _brick_wall,
}


def _tint(color: tuple[float, float, float], brightness: np.ndarray) -> np.ndarray:
    return np.asarray(color) * brightness[..., None]


def draw_scene(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draw a random scene; the same state of ``rng`` gives the same scene.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        A scene of one to three ground classes and up to five objects, each with its mask.
    """
    canvas = _Canvas(rng, height, width)
    canvas.paint_ground()
    if rng.random() < 0.25:
        canvas.paint_unlabelled()
    if rng.random() < 0.12:
        canvas.paint_crowd()
    for _ in range(rng.integers(0, MAX_OBJECTS + 1)):
        canvas.paint_object()
    return Scene(canvas.develop(), canvas.segments())


class _Canvas:
    """Paint in layers: a later one hides what it covers."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.size = min(height, width)
        self.y, self.x = np.mgrid[0:height, 0:width].astype(np.float64)
        self.image = np.zeros((height, width, 3))
        # Index of the topmost layer at each pixel; -1 is unlabelled.
        self.top = np.full((height, width), -1)
        self.layers: list[tuple[str, bool]] = []

    def paint_ground(self) -> None:
        """Wavy bands of different ground classes over the whole image."""
        rng, height, width = self.rng, *self.top.shape
        count = rng.integers(1, 4)
        names = rng.permutation(list(GROUNDS))[:count]
        angle = rng.uniform(0, np.pi)
        u = (self.x / width - 0.5) * np.cos(angle) + (self.y / height - 0.5) * np.sin(angle)
        v = (self.y / height - 0.5) * np.cos(angle) - (self.x / width - 0.5) * np.sin(angle)
        u = u + rng.uniform(0.02, 0.08) * np.sin(v * rng.uniform(4, 12) + rng.uniform(0, 6))
        edges = np.quantile(u, (np.arange(1, count) + rng.uniform(-0.2, 0.2, count - 1)) / count)
        band = np.searchsorted(edges, u)
        for index, name in enumerate(names):
            texture = GROUNDS[name](rng, self.y, self.x)
            self._paint(str(name), band == index, texture * self._color_variation(0.06))

    def paint_unlabelled(self) -> None:
        """A gray patch that belongs to no class."""
        u, v = self._relative_coordinates(self.rng.uniform(0.1, 0.25))
        mask = u**2 + 2 * v**2 < 1
        self.image[mask] = self.rng.uniform(0.35, 0.6) + self.rng.normal(size=(mask.sum(), 1)) * 0.1
        self.top[mask] = -1

    def paint_crowd(self) -> None:
        """Many small objects of one class, annotated as one crowd segment."""
        name = str(self.rng.choice(list(SHAPES)))
        center = self._random_center()
        mask = np.zeros(self.top.shape, bool)
        for _ in range(self.rng.integers(6, 11)):
            place = center + self.rng.normal(size=2) * 0.1 * self.size
            mask |= self._shape(name, self.rng.uniform(0.04, 0.06), place)
        self._paint(name, mask, self._object_color(name), is_crowd=True)

    def paint_object(self) -> None:
        """One object of a random class, size, place and turn."""
        name = str(self.rng.choice(list(SHAPES)))
        mask = self._shape(name, self.rng.uniform(0.1, 0.25), self._random_center())
        self._paint(name, mask, self._object_color(name))

    def develop(self) -> np.ndarray:
        """The image under a sloping light, with the noise of a camera: uint8 [H, W, 3]."""
        rng, height, width = self.rng, *self.top.shape
        slope = rng.uniform(-0.25, 0.25, 2)
        light = slope[0] * (self.x / width - 0.5) + slope[1] * (self.y / height - 0.5)
        light = (rng.uniform(0.85, 1.1) + light)[..., None]
        noisy = self.image * light + rng.normal(size=self.image.shape) * rng.uniform(0.01, 0.03)
        return np.round(255 * noisy.clip(0, 1)).astype(np.uint8)

    def segments(self) -> tuple[Segment, ...]:
        """What is visible of each layer, unless it is too little."""
        visible = [Segment(name, self.top == i, c) for i, (name, c) in enumerate(self.layers)]
        return tuple(segment for segment in visible if segment.mask.sum() >= MIN_AREA)

    def _paint(
        self, name: str, mask: np.ndarray, color: np.ndarray, is_crowd: bool = False
    ) -> None:
        self.image[mask] = np.broadcast_to(color, self.image.shape)[mask]
        self.top[mask] = len(self.layers)
        self.layers.append((name, is_crowd))

    def _random_center(self) -> np.ndarray:
        """(x, y) in pixels, inside the image by a tenth of its size."""
        height, width = self.top.shape
        return self.rng.uniform(0.1, 0.9, 2) * (width, height)

    def _relative_coordinates(
        self, radius: float, center: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turned coordinates around a center, in units of ``radius`` times the image size."""
        center = self._random_center() if center is None else center
        x = (self.x - center[0]) / (radius * self.size)
        y = (self.y - center[1]) / (radius * self.size)
        turn = self.rng.uniform(-0.5, 0.5)
        return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)

    def _shape(self, name: str, radius: float, center: np.ndarray) -> np.ndarray:
        u, v = self._relative_coordinates(radius, center)
        return SHAPES[name][0](u, v, np.hypot(u, v))

    def _object_color(self, name: str) -> np.ndarray:
        """A class's color, varied, under a pattern: plain, stripes or dots. [H, W, 3]."""
        period, phase = self.rng.uniform(5, 9), self.rng.uniform(0, 2 * np.pi)
        x, y = 2 * np.pi * self.x / period + phase, 2 * np.pi * self.y / period
        patterns = (
            np.zeros_like(x),
            np.sin(x + self.rng.uniform(-1, 1) * y),
            np.sin(x) * np.sin(y),
        )
        pattern = patterns[self.rng.integers(len(patterns))]
        color = np.asarray(SHAPES[name][1]) * self._color_variation(0.08)
        # Dark colors show a pattern only if it is added, light ones only if it is taken away.
        return color + 0.12 * (np.sign(pattern) * 0.5 - color.mean() + 0.4)[..., None]

    def _color_variation(self, amount: float) -> np.ndarray:
        return 1 + self.rng.uniform(-amount, amount, 3)
