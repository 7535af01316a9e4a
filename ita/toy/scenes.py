"""Scenes of the toy world: objects over textured ground, with ground-truth segments.

Objects vary in coat, shape, size, rotation and shading, and occlude the layers below. Some scenes
have an unlabelled patch or a crowd of small objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ita.toy.drawing import COAT_TEXTURES, GROUND_TEXTURES, SHAPE_MASKS

MAX_OBJECTS = 5
MAX_GROUNDS = 3
# Radius of objects, relative to the shorter side of the image.
MIN_RADIUS, MAX_RADIUS = 0.12, 0.26
# Maximum rotation of objects in either direction, in radians.
MAX_TURN = 0.5
# Minimum visible area of a segment, in pixels.
MIN_AREA = 40
# Minimum visible fraction of an object: below it, the shape is not recognizable. An object that
# would occlude another one further is not drawn.
MIN_VISIBLE = 0.6


@dataclass(frozen=True)
class Segment:
    """A segment of a scene: its class name and bool mask [H, W]."""

    name: str
    mask: np.ndarray
    is_crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """An image, uint8 [H, W, 3] RGB, and its non-overlapping segments."""

    image: np.ndarray
    segments: tuple[Segment, ...]


def draw_scene(
    rng: np.random.Generator,
    height: int,
    width: int,
    things: Sequence[str],
    stuff: Sequence[str],
    max_objects: int = MAX_OBJECTS,
) -> Scene:
    """Draw a random scene, deterministic given the state of ``rng``.

    Args:
        rng: source of all randomness.
        height: image height in pixels.
        width: image width in pixels.
        things: object names to sample from, "COAT SHAPE"; a name listed twice is sampled twice as
            often.
        stuff: ground names to sample from.
        max_objects: maximum number of objects; 1 also disables crowds.

    Returns:
        A scene of one to three grounds and one or more objects, each with its mask.
    """
    canvas = _Canvas(rng, height, width)
    canvas.paint_ground(stuff)
    if rng.random() < 0.2:
        canvas.paint_unlabelled()
    if max_objects > 1 and rng.random() < 0.08:
        canvas.paint_crowd(str(rng.choice(things)))
    for _ in range(rng.integers(1, max_objects + 1)):
        canvas.paint_object(str(rng.choice(things)))
    return Scene(canvas.develop(), canvas.segments())


class _Canvas:
    """Image painted in layers; later layers occlude earlier ones."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.size = min(height, width)
        self.y, self.x = np.mgrid[0:height, 0:width].astype(np.float64)
        self.image = np.zeros((height, width, 3))
        # Index of the topmost layer at each pixel; -1 is unlabelled.
        self.top = np.full((height, width), -1)
        self.layers: list[tuple[str, bool]] = []
        # Area of each layer without occlusion, in pixels.
        self.areas: list[int] = []

    def paint_ground(self, stuff: Sequence[str]) -> None:
        """Paint wavy bands of different grounds over the whole image."""
        rng, height, width = self.rng, *self.top.shape
        count = rng.integers(1, min(MAX_GROUNDS, len(stuff)) + 1)
        names = rng.permutation(list(stuff))[:count]
        angle = rng.uniform(0, np.pi)
        u = (self.x / width - 0.5) * np.cos(angle) + (self.y / height - 0.5) * np.sin(angle)
        v = (self.y / height - 0.5) * np.cos(angle) - (self.x / width - 0.5) * np.sin(angle)
        u = u + rng.uniform(0.02, 0.08) * np.sin(v * rng.uniform(4, 12) + rng.uniform(0, 6))
        edges = np.quantile(u, (np.arange(1, count) + rng.uniform(-0.2, 0.2, count - 1)) / count)
        band = np.searchsorted(edges, u)
        for index, name in enumerate(names):
            texture = GROUND_TEXTURES[name](rng, self.y, self.x)
            self._paint(str(name), band == index, texture * (1 + rng.uniform(-0.06, 0.06, 3)))

    def paint_unlabelled(self) -> None:
        """Paint a gray patch that belongs to no class."""
        u, v = self._relative_coordinates(self.rng.uniform(0.1, 0.2), self._random_center())
        mask = u**2 + 2 * v**2 < 1
        self.image[mask] = self.rng.uniform(0.35, 0.6) + self.rng.normal(size=(mask.sum(), 1)) * 0.1
        self.top[mask] = -1

    def paint_crowd(self, name: str) -> None:
        """Paint many small objects of one class, annotated as one crowd segment."""
        center = self._random_center()
        mask = np.zeros(self.top.shape, bool)
        for _ in range(self.rng.integers(5, 9)):
            place = center + self.rng.normal(size=2) * 0.12 * self.size
            mask |= self._shape(name, self.rng.uniform(0.05, 0.08), place)
        self._paint(name, mask, self._coat(name), is_crowd=True)

    def paint_object(self, name: str) -> None:
        """Paint an object of random size, position and rotation unless it hides others too much."""
        mask = self._shape(name, self.rng.uniform(MIN_RADIUS, MAX_RADIUS), self._random_center())
        coat = self._coat(name)
        if not self._hides_too_much(mask):
            self._paint(name, mask, coat * self._shading(mask)[..., None])

    def develop(self) -> np.ndarray:
        """Image with a lighting gradient and camera noise, uint8 [H, W, 3]."""
        rng, height, width = self.rng, *self.top.shape
        slope = rng.uniform(-0.25, 0.25, 2)
        light = slope[0] * (self.x / width - 0.5) + slope[1] * (self.y / height - 0.5)
        light = (rng.uniform(0.85, 1.1) + light)[..., None]
        noisy = self.image * light + rng.normal(size=self.image.shape) * rng.uniform(0.01, 0.03)
        return np.round(255 * noisy.clip(0, 1)).astype(np.uint8)

    def segments(self) -> tuple[Segment, ...]:
        """Visible part of each layer, without parts smaller than ``MIN_AREA``."""
        visible = [Segment(name, self.top == i, c) for i, (name, c) in enumerate(self.layers)]
        return tuple(segment for segment in visible if segment.mask.sum() >= MIN_AREA)

    def _hides_too_much(self, mask: np.ndarray) -> bool:
        visible = np.bincount(self.top[~mask & (self.top >= 0)], minlength=len(self.layers))
        return any(
            name not in GROUND_TEXTURES and shown < MIN_VISIBLE * area
            for (name, _), shown, area in zip(self.layers, visible, self.areas, strict=True)
        )

    def _paint(
        self, name: str, mask: np.ndarray, color: np.ndarray, is_crowd: bool = False
    ) -> None:
        self.image[mask] = color[mask]
        self.top[mask] = len(self.layers)
        self.layers.append((name, is_crowd))
        self.areas.append(int(mask.sum()))

    def _random_center(self) -> np.ndarray:
        """Random (x, y) in pixels, at least an eighth of the image size away from its border."""
        height, width = self.top.shape
        return self.rng.uniform(0.125, 0.875, 2) * (width, height)

    def _relative_coordinates(
        self, radius: float, center: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Randomly rotated coordinates around a center, in ``radius`` times the image size."""
        x = (self.x - center[0]) / (radius * self.size)
        y = (self.y - center[1]) / (radius * self.size)
        turn = self.rng.uniform(-MAX_TURN, MAX_TURN)
        return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)

    def _shape(self, name: str, radius: float, center: np.ndarray) -> np.ndarray:
        u, v = self._relative_coordinates(radius, center)
        return SHAPE_MASKS[name.split()[1]](u, v, np.hypot(u, v))

    def _coat(self, name: str) -> np.ndarray:
        return COAT_TEXTURES[name.split()[0]](self.rng, self.y, self.x)

    def _shading(self, mask: np.ndarray) -> np.ndarray:
        """Brightness that decreases from one side of an object to the other, [H, W]."""
        angle = self.rng.uniform(0, 2 * np.pi)
        across = self.x * np.cos(angle) + self.y * np.sin(angle)
        inside = across[mask] if mask.any() else across
        fall = (across - inside.mean()) / (np.ptp(inside) + 1e-6)
        return 1 + self.rng.uniform(0, 0.3) * fall
