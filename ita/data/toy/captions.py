"""Image-caption pairs of the toy world, as an image-text model would find them on the web.

They cover the whole vocabulary, also the pairs of words that segmentation never trains on, and say
nothing of where in the image a thing is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ita.data.toy.names import DISTRACTOR_STUFF, DISTRACTOR_THINGS, STUFF, THINGS, synonym
from ita.data.toy.scenes import Scene, draw_scene

ALL_THINGS = THINGS + DISTRACTOR_THINGS
ALL_STUFF = STUFF + DISTRACTOR_STUFF
SUBJECTS = ALL_THINGS + ALL_STUFF
SCENE_SIZE = 144
# Greatest side of a view in lengths of its subject's bounding box.
MAX_CONTEXT = 1.8
# Length in pixels of the part of a ground that is a view's subject.
MIN_GROUND, MAX_GROUND = 24, 48
# A segment that nobody would name is smaller than this, in pixels.
MIN_NAMED_AREA = 150
SYNONYM_RATE = 0.25
PATTERNS = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a SIZE {}.",
    "This is a photo of a SIZE {}.",
    "There is a SIZE {} in the scene.",
    "a picture of some {}",
    "other things and a {}",
)
SIZES = ("small", "medium", "large")


def all_texts() -> Iterator[str]:
    """Texts with every word that a caption can have."""
    yield from (pattern.replace("SIZE", size) for pattern in PATTERNS for size in SIZES)
    yield from (text for name in SUBJECTS for text in (name, f"a {synonym(name)} and"))


@dataclass(frozen=True)
class _Place:
    """Where a subject is: an image, and the middle and length of the subject's box in pixels."""

    image: Image.Image
    x: float
    y: float
    length: float


@dataclass(frozen=True)
class _NamedScene:
    """A scene of several objects and the names of what it shows."""

    image: Image.Image
    names: tuple[str, ...]


def _portrait(rng: np.random.Generator, name: str) -> _Place:
    """A scene with a single object, which can be seen."""
    while True:
        scene = draw_scene(rng, SCENE_SIZE, SCENE_SIZE, [name], ALL_STUFF, max_objects=1)
        for segment in scene.segments:
            if segment.name == name and segment.mask.sum() >= MIN_NAMED_AREA:
                rows, columns = (np.flatnonzero(segment.mask.any(axis=axis)) for axis in (1, 0))
                length = max(np.ptp(rows), np.ptp(columns)) + 1
                middle = ((columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2)
                return _Place(Image.fromarray(scene.image), *map(float, middle), float(length))


class CaptionedViews:
    """Views of random scenes with captions; the same arguments give the same pairs.

    Most are portraits, one object of a class before some ground; the others are scenes of several
    objects, whose captions name some of what they show.

    Args:
        seed: of the scenes and of the views.
        portraits_each: portraits drawn of every class of objects.
        num_scenes: scenes of several objects.
        size: side of a view in pixels; may be changed at any time.
    """

    def __init__(self, seed: int, portraits_each: int, num_scenes: int, size: int) -> None:
        self.size = size
        self.rng = np.random.default_rng((seed, 2))
        self._portraits = {
            name: [
                _portrait(np.random.default_rng((seed, 0, subject, number)), name)
                for number in range(portraits_each)
            ]
            for subject, name in enumerate(ALL_THINGS)
        }
        self._scenes: list[_NamedScene] = []
        self._grounds: dict[str, list[_Place]] = {name: [] for name in ALL_STUFF}
        for number in range(num_scenes):
            rng = np.random.default_rng((seed, 1, number))
            self._add_scene(draw_scene(rng, SCENE_SIZE, SCENE_SIZE, ALL_THINGS, ALL_STUFF), rng)

    def of_each_subject(self) -> tuple[list[Image.Image], list[str]]:
        """One view of each class, in random order, and the classes' names."""
        subjects = [str(name) for name in self.rng.permutation(SUBJECTS)]
        return [self._view(self._random_place(name)) for name in subjects], subjects

    def batches(self, num_scenes: int) -> Iterator[tuple[list[Image.Image], list[str]]]:
        """Endless batches: a view of each class and ``num_scenes`` whole scenes, with captions.

        That each class comes once keeps captions of a batch from being true of two images.
        """
        while True:
            images, subjects = self.of_each_subject()
            captions = [self._caption(subject) for subject in subjects]
            for index in self.rng.choice(len(self._scenes), num_scenes, replace=False):
                scene = self._scenes[index]
                images.append(self._augmented(scene.image.resize((self.size, self.size))))
                captions.append(self._scene_caption(scene.names))
            yield images, captions

    def _add_scene(self, scene: Scene, rng: np.random.Generator) -> None:
        image = Image.fromarray(scene.image)
        named = [s for s in scene.segments if s.mask.sum() >= MIN_NAMED_AREA]
        self._scenes.append(_NamedScene(image, tuple(sorted({s.name for s in named}))))
        for segment in named:
            if segment.name in ALL_STUFF:
                y, x = rng.choice(np.argwhere(segment.mask))
                side = rng.uniform(MIN_GROUND, MAX_GROUND)
                self._grounds[segment.name].append(_Place(image, float(x), float(y), side))

    def _random_place(self, name: str) -> _Place:
        places = self._grounds.get(name) or self._portraits[name]
        return places[self.rng.integers(len(places))]

    def _view(self, place: _Place) -> Image.Image:
        """A square around the place, which lies anywhere inside it."""
        image, rng = place.image, self.rng
        side = min(place.length * rng.uniform(1, MAX_CONTEXT), image.width)
        slack = (side - place.length) / 2
        corner = np.array((place.x, place.y)) + rng.uniform(-slack, slack, 2) - side / 2
        left, top = np.clip(corner, 0, image.width - side)
        box = (left, top, left + side, top + side)
        view = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return self._augmented(view)

    def _augmented(self, view: Image.Image) -> Image.Image:
        if self.rng.random() < 0.5:
            view = ImageOps.mirror(view)
        return ImageEnhance.Brightness(view).enhance(self.rng.uniform(0.85, 1.15))

    def _word(self, name: str) -> str:
        return synonym(name) if self.rng.random() < SYNONYM_RATE else name

    def _caption(self, subject: str) -> str:
        pattern = PATTERNS[self.rng.integers(len(PATTERNS))]
        pattern = pattern.replace("SIZE", SIZES[self.rng.integers(len(SIZES))])
        return pattern.format(self._word(subject))

    def _scene_caption(self, names: Sequence[str]) -> str:
        count = self.rng.integers(1, len(names) + 1)
        chosen = [self._word(str(n)) for n in self.rng.permutation(names)[:count]]
        return " and ".join(f"a {name}" for name in chosen)
