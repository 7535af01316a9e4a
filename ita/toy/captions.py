"""Image-caption pairs of the toy world, similar to web data for image-text models.

They cover all classes, including the word pairs held out from segmentation training. Masks
determine the image content, views of a subject and windows around one; captions only name it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ita.errors import UserError
from ita.toy.names import DISTRACTOR_STUFF, DISTRACTOR_THINGS, STUFF, THINGS, synonym
from ita.toy.scenes import MAX_OBJECTS, Segment, draw_scene

ALL_THINGS = THINGS + DISTRACTOR_THINGS
ALL_STUFF = STUFF + DISTRACTOR_STUFF
SUBJECTS = ALL_THINGS + ALL_STUFF
SCENE_SIZE = 144
# Maximum side of a view, relative to the length of its subject's bounding box.
MAX_CONTEXT = 1.8
# Side in pixels of the ground patch that a view shows, and number of random candidates from which
# the patch with the largest share of that ground is selected.
MIN_GROUND, MAX_GROUND = 24, 44
GROUND_CANDIDATES = 16
# Minimum area of a segment that captions name, in pixels.
MIN_NAMED_AREA = 150
# Side of a window around an object or ground in a scene, relative to its length.
MIN_WINDOW, MAX_WINDOW = 0.6, 1.3
# Maximum number of names in a caption of a whole scene.
MAX_NAMED = 5
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
# First element of every random seed here, where a data set has its seed: its scenes differ from
# these unless its seed is this value.
_STREAM = 0xC11B


def all_texts() -> Iterator[str]:
    """Yield texts that contain every word of the captions."""
    subject = SUBJECTS[0]
    for pattern in PATTERNS:
        yield from (pattern.replace("SIZE", size).format(subject) for size in SIZES)
    yield from (text for name in SUBJECTS for text in (name, f"a {synonym(name)} and"))


@dataclass(frozen=True)
class Batch:
    """Images with captions.

    Attributes:
        views: images of one subject each.
        scenes: images of several subjects.
        windows: captioned regions of scenes: (scene, left, top, right, bottom), relative to the
            side of the image.
        captions: of the views, then of the windows.
        named: classes that each caption names.
        shown: classes that count as shown by each captioned image: the subject of a view or
            window, or all classes of a whole scene that are large enough to name.
    """

    views: list[Image.Image] = field(default_factory=list)
    scenes: list[Image.Image] = field(default_factory=list)
    windows: list[tuple[int, float, float, float, float]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    named: list[frozenset[str]] = field(default_factory=list)
    shown: list[frozenset[str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Location of a subject: an image, and the center and length of the subject's box in pixels."""

    image: Image.Image
    x: float
    y: float
    length: float


@dataclass(frozen=True)
class _Group:
    """A scene of several objects: its image and the names and places of its segments."""

    image: Image.Image
    places: tuple[tuple[str, _Place], ...]


def _portrait(rng: np.random.Generator, name: str) -> _Place:
    """Place of an object that is alone in its scene and large enough to name."""
    while True:
        scene = draw_scene(rng, SCENE_SIZE, SCENE_SIZE, [name], ALL_STUFF, max_objects=1)
        for segment in scene.segments:
            if segment.name == name and segment.mask.sum() >= MIN_NAMED_AREA:
                return _place_of(Image.fromarray(scene.image), segment)


def _place_of(image: Image.Image, segment: Segment) -> _Place:
    rows, columns = (np.flatnonzero(segment.mask.any(axis=axis)) for axis in (1, 0))
    length = max(np.ptp(rows), np.ptp(columns)) + 1
    x, y = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    return _Place(image, float(x), float(y), float(length))


def _ground_place(rng: np.random.Generator, image: Image.Image, mask: np.ndarray) -> _Place:
    """A random place that shows mostly this ground."""
    length = rng.uniform(MIN_GROUND, MAX_GROUND)
    reach = round(length / 2)

    def share(middle: np.ndarray) -> float:
        top, left = np.maximum(middle - reach, 0)
        return mask[top : middle[0] + reach + 1, left : middle[1] + reach + 1].mean()

    y, x = max(rng.choice(np.argwhere(mask), GROUND_CANDIDATES), key=share)
    return _Place(image, float(x), float(y), length)


class _Captions:
    """Random variations of images, and captions of the classes that they show."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def _varied(self, image: Image.Image) -> Image.Image:
        """Mirror an image or not, and vary its brightness."""
        return self._jitter_brightness(ImageOps.mirror(image) if self.rng.random() < 0.5 else image)

    def _jitter_brightness(self, image: Image.Image) -> Image.Image:
        return ImageEnhance.Brightness(image).enhance(self.rng.uniform(0.85, 1.15))

    def _random_synonym(self, name: str) -> str:
        return synonym(name) if self.rng.random() < SYNONYM_RATE else name

    def _caption(self, names: Sequence[str]) -> str:
        """A caption of one name in the wording of a prompt, or a list of several."""
        if len(names) > 1:
            return self._list(names)
        pattern = PATTERNS[self.rng.integers(len(PATTERNS))]
        pattern = pattern.replace("SIZE", SIZES[self.rng.integers(len(SIZES))])
        return pattern.format(self._random_synonym(names[0]))

    def _list(self, names: Sequence[str]) -> str:
        return " and ".join(f"a {self._random_synonym(name)}" for name in names)

    def _sample_names(self, names: Sequence[str]) -> list[str]:
        """At most ``MAX_NAMED`` of the names, in random order; grounds are dropped first."""
        shuffled = sorted(self.rng.permutation(names), key=ALL_STUFF.__contains__)
        return [str(name) for name in self.rng.permutation(shuffled[:MAX_NAMED])]


class CaptionedViews(_Captions):
    """Images of random scenes with captions, deterministic given the arguments.

    Args:
        seed: random seed of the scenes and views.
        portraits_each: number of single-object scenes drawn for every class of objects.
        num_scenes: number of scenes with several objects.

    Raises:
        UserError: too few scenes to show every ground.
    """

    def __init__(self, seed: int, portraits_each: int, num_scenes: int) -> None:
        super().__init__(np.random.default_rng((_STREAM, seed, 2)))
        self._places = {
            name: [
                _portrait(np.random.default_rng((_STREAM, seed, 0, subject, number)), name)
                for number in range(portraits_each)
            ]
            for subject, name in enumerate(ALL_THINGS)
        } | {name: [] for name in ALL_STUFF}
        self._groups: list[_Group] = []
        for number in range(num_scenes):
            self._add_group(np.random.default_rng((_STREAM, seed, 1, number)))
        if missing := [name for name, places in self._places.items() if not places]:
            raise UserError(f"{num_scenes} scenes do not show {', '.join(missing)}; draw more")

    def of_each_subject(self, size: int) -> tuple[list[Image.Image], list[str]]:
        """One view of each class, in random order, and the class names."""
        subjects = [str(name) for name in self.rng.permutation(SUBJECTS)]
        return [self._view(self._random_place(name), size) for name in subjects], subjects

    def batches(
        self, num_views: int, num_scenes: int, view_size: int, scene_size: int
    ) -> Iterator[Batch]:
        """Yield batches endlessly.

        Args:
            num_views: number of views, at most one of each class.
            num_scenes: number of scenes, each with a window around every object and ground and one
                over the whole scene, whose caption names several classes.
            view_size: side of a view in pixels.
            scene_size: side of a scene's image in pixels.
        """
        while True:
            subjects = [str(name) for name in self.rng.permutation(SUBJECTS)[:num_views]]
            batch = Batch()
            for subject in subjects:
                batch.views.append(self._view(self._random_place(subject), view_size))
                self._describe(batch, subject)
            for index in self.rng.choice(len(self._groups), num_scenes, replace=False):
                self._add_scene(batch, self._groups[index], scene_size)
            yield batch

    def _add_group(self, rng: np.random.Generator) -> None:
        scene = draw_scene(rng, SCENE_SIZE, SCENE_SIZE, ALL_THINGS, ALL_STUFF)
        image = Image.fromarray(scene.image)
        places = []
        for segment in scene.segments:
            if segment.mask.sum() < MIN_NAMED_AREA:
                continue
            if segment.name in ALL_STUFF:
                place = _ground_place(rng, image, segment.mask)
                self._places[segment.name].append(place)
            else:
                place = _place_of(image, segment)
            places.append((segment.name, place))
        self._groups.append(_Group(image, tuple(places)))

    def _add_scene(self, batch: Batch, group: _Group, size: int) -> None:
        """Add a scene, randomly mirrored, and its windows to a batch."""
        index, mirrored = len(batch.scenes), self.rng.random() < 0.5
        image = group.image.resize((size, size), Image.Resampling.BILINEAR)
        batch.scenes.append(self._jitter_brightness(ImageOps.mirror(image) if mirrored else image))
        for name, place in group.places:
            half = place.length * self.rng.uniform(MIN_WINDOW, MAX_WINDOW) / 2
            x = SCENE_SIZE - 1 - place.x if mirrored else place.x
            box = np.array((x - half, place.y - half, x + half, place.y + half)) / SCENE_SIZE
            batch.windows.append((index, *box.clip(0, 1).tolist()))
            self._describe(batch, name)
        shown = sorted({name for name, _ in group.places})
        if len(shown) > 1:
            named = self._sample_names(shown)
            batch.windows.append((index, 0.0, 0.0, 1.0, 1.0))
            batch.captions.append(self._list(named))
            batch.named.append(frozenset(named))
            batch.shown.append(frozenset(shown))

    def _random_place(self, name: str) -> _Place:
        places = self._places[name]
        return places[self.rng.integers(len(places))]

    def _view(self, place: _Place, size: int) -> Image.Image:
        """Square crop that contains the place at a random position."""
        image, rng = place.image, self.rng
        side = min(place.length * rng.uniform(1, MAX_CONTEXT), image.width)
        slack = (side - place.length) / 2
        corner = np.array((place.x, place.y)) + rng.uniform(-slack, slack, 2) - side / 2
        left, top = np.clip(corner, 0, image.width - side)
        box = (left, top, left + side, top + side)
        view = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        return self._varied(view)

    def _describe(self, batch: Batch, subject: str) -> None:
        """Add a caption that names one class."""
        batch.captions.append(self._caption([subject]))
        batch.named.append(frozenset((subject,)))
        batch.shown.append(frozenset((subject,)))


class CaptionedScenes(_Captions):
    """Whole scenes with captions that name some of their classes, and nothing that tells where.

    Scenes of a single object take turns with others, as many pictures of the web have a single
    subject: a batch of them has most coats in several shapes, so that neither is enough to tell
    its captions apart.

    Args:
        seed: random seed of the scenes and captions.
        singles_each: number of single-object scenes drawn for every class of objects.
        num_scenes: number of scenes with several objects.
    """

    def __init__(self, seed: int, singles_each: int, num_scenes: int) -> None:
        super().__init__(np.random.default_rng((_STREAM, seed, 3)))
        self._singles = {
            name: [
                _whole(np.random.default_rng((_STREAM, seed, 4, subject, number)), [name], 1)
                for number in range(singles_each)
            ]
            for subject, name in enumerate(ALL_THINGS)
        }
        self._scenes = [
            _whole(np.random.default_rng((_STREAM, seed, 5, number)), ALL_THINGS, MAX_OBJECTS)
            for number in range(num_scenes)
        ]

    def batches(self, num_singles: int, num_scenes: int, size: int) -> Iterator[Batch]:
        """Yield batches endlessly.

        Args:
            num_singles: number of single-object scenes, at most one of each class of objects.
            num_scenes: number of scenes with several objects.
            size: side of an image in pixels.
        """
        while True:
            names = self.rng.permutation(ALL_THINGS)[:num_singles]
            chosen = [
                self._singles[name][self.rng.integers(len(self._singles[name]))] for name in names
            ]
            picked = self.rng.choice(len(self._scenes), num_scenes, replace=False)
            batch = Batch()
            for scene in chosen + [self._scenes[index] for index in picked]:
                image = scene.image.resize((size, size), Image.Resampling.BILINEAR)
                batch.views.append(self._varied(image))
                named = self._sample_names(scene.shown)
                named = named[: self.rng.integers(1, len(named) + 1)]
                batch.captions.append(self._caption(named))
                batch.named.append(frozenset(named))
                batch.shown.append(frozenset(scene.shown))
            yield batch


@dataclass(frozen=True)
class _Whole:
    """A whole scene: its image and the classes that are large enough to name."""

    image: Image.Image
    shown: tuple[str, ...]


def _whole(rng: np.random.Generator, things: Sequence[str], max_objects: int) -> _Whole:
    """Draw a scene that shows one of the objects large enough to name."""
    while True:
        scene = draw_scene(rng, SCENE_SIZE, SCENE_SIZE, things, ALL_STUFF, max_objects=max_objects)
        named = {s.name for s in scene.segments if s.mask.sum() >= MIN_NAMED_AREA}
        if not named.isdisjoint(things):
            return _Whole(Image.fromarray(scene.image), tuple(sorted(named)))
