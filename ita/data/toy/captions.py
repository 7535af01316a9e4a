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
# Side of a view in lengths of its subject's bounding box.
MIN_CONTEXT, MAX_CONTEXT = 1.0, 2.2
# Side in pixels of a view of ground.
MIN_GROUND, MAX_GROUND = 32, 90
# A subject nobody would name is smaller than this, in pixels.
MIN_SUBJECT_AREA = 150
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


@dataclass(frozen=True)
class _Place:
    """Where a subject is: the scene's index, and the middle and length of its box in pixels."""

    scene: int
    x: float
    y: float
    length: float


class CaptionedViews:
    """Views of random scenes with captions; the same arguments give the same pairs.

    Args:
        seed: of the scenes and of the views.
        num_scenes: scenes that views are taken from.
        size: side of a view in pixels.
    """

    def __init__(self, seed: int, num_scenes: int, size: int) -> None:
        self.size = size
        self.rng = np.random.default_rng((seed, 1))
        self._images: list[Image.Image] = []
        self._names: list[list[str]] = []
        self._places: dict[str, list[_Place]] = {name: [] for name in SUBJECTS}
        for index in range(num_scenes):
            rng = np.random.default_rng((seed, 0, index))
            self._add(index, draw_scene(rng, SCENE_SIZE, SCENE_SIZE, ALL_THINGS, ALL_STUFF))

    def _add(self, index: int, scene: Scene) -> None:
        self._images.append(Image.fromarray(scene.image))
        named = [s for s in scene.segments if s.mask.sum() >= MIN_SUBJECT_AREA]
        self._names.append(sorted({segment.name for segment in named}))
        for segment in named:
            rows, columns = (np.flatnonzero(segment.mask.any(axis=axis)) for axis in (1, 0))
            if segment.name in ALL_STUFF:
                # The middle of ground may lie under an object: any of its pixels will do.
                y, x = self._some_pixel(index, segment.mask)
                place = _Place(index, x, y, 0.0)
            else:
                length = max(np.ptp(rows), np.ptp(columns)) + 1
                place = _Place(index, columns.mean(), rows.mean(), float(length))
            self._places[segment.name].append(place)

    @staticmethod
    def _some_pixel(index: int, mask: np.ndarray) -> tuple[float, float]:
        pixels = np.argwhere(mask)
        y, x = pixels[(index * 7919) % len(pixels)]
        return float(y), float(x)

    def of_each_subject(self) -> tuple[list[Image.Image], list[str]]:
        """One view of each subject that has been drawn, in random order, and the subjects."""
        subjects = [name for name in SUBJECTS if self._places[name]]
        subjects = [str(name) for name in self.rng.permutation(subjects)]
        return [self._view(self._random_place(name)) for name in subjects], subjects

    def batches(self, num_scenes: int) -> Iterator[tuple[list[Image.Image], list[str]]]:
        """Endless batches: a view of each subject and ``num_scenes`` whole scenes, with captions.

        That each subject comes once keeps captions of a batch from being true of two images.
        """
        while True:
            images, subjects = self.of_each_subject()
            captions = [self._caption(subject) for subject in subjects]
            for index in self.rng.choice(len(self._images), num_scenes, replace=False):
                images.append(self._augmented(self._images[index].resize((self.size, self.size))))
                captions.append(self._scene_caption(self._names[index]))
            yield images, captions

    def held_out(self, views_each: int) -> tuple[list[Image.Image], list[str]]:
        """``views_each`` views of each subject, and the subjects, for measuring."""
        images, subjects = [], []
        for _ in range(views_each):
            more_images, more_subjects = self.of_each_subject()
            images += more_images
            subjects += more_subjects
        return images, subjects

    def _random_place(self, name: str) -> _Place:
        places = self._places[name]
        return places[self.rng.integers(len(places))]

    def _view(self, place: _Place) -> Image.Image:
        rng = self.rng
        image = self._images[place.scene]
        if place.length:
            side = place.length * rng.uniform(MIN_CONTEXT, MAX_CONTEXT)
            jitter = 0.5 * max(side - place.length, 0) + 0.05 * side
        else:
            side = rng.uniform(MIN_GROUND, MAX_GROUND)
            jitter = 0.0
        side = min(side, image.width)
        corner = np.array((place.x, place.y)) + rng.uniform(-jitter, jitter, 2) - side / 2
        left, top = np.clip(corner, 0, image.width - side)
        box = (left, top, min(left + side, image.width), min(top + side, image.height))
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
        count = self.rng.integers(1, len(names) + 1) if len(names) > 1 else len(names)
        chosen = [self._word(str(n)) for n in self.rng.permutation(names)[:count]]
        return " and ".join(f"a {name}" for name in chosen)
