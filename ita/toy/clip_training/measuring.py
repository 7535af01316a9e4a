"""Zero-shot accuracy of a CLIP on the toy world: on views, regions of scenes and whole scenes.

All measures are percentages over groups of classes, on held-out images.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ita.modeling.clip import FrozenCLIP
from ita.modeling.vocabulary import BARE, TextEncoder
from ita.toy.captions import MAX_NAMED, SCENE_SIZE, SUBJECTS, CaptionedViews
from ita.toy.names import SEEN_THINGS, STUFF, TEST_UNSEEN, THINGS, VAL_UNSEEN, synonym
from ita.toy.scenes import Scene, draw_scene

# Training seeds are smaller.
HELD_OUT_SEED = 1 << 20
WORLD = THINGS + STUFF
GROUPS: dict[str, frozenset[str]] = {
    "all pairs": frozenset(THINGS),
    "seen pairs": frozenset(SEEN_THINGS),
    "validation-unseen": frozenset(VAL_UNSEEN),
    "test-unseen": frozenset(TEST_UNSEEN),
    "stuff": frozenset(STUFF),
}
# Title -> class -> name: the candidate classes of a view and their names.
VOCABULARIES: dict[str, dict[str, str]] = {
    f"{len(WORLD)} names": {name: name for name in WORLD},
    f"{len(SUBJECTS)} names": {name: name for name in SUBJECTS},
    f"{len(WORLD)} synonyms": {name: synonym(name) for name in WORLD},
}
REGIONS = f"regions, {len(WORLD)} names"
TOP = (8, 16, 20)
# Title -> number of captions or scenes among which the correct one must be.
FIRST = {"first": 1, "among the first 5": 5}
# Scale of scenes before the dense feature is computed, as for a model's test images.
ENLARGED = 2
# Stride of a model's mask logits.
MASK_STRIDE = 4
# Enough scenes to show every ground.
_SCENES_FOR_GROUND = 100
_BATCH = 64

# Group -> measure -> percentage.
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measured:
    """Measurements, as tables by group.

    Attributes:
        accuracy: accuracy of views for each class list, and of regions.
        found: percentage of a scene's classes among the K that match the image best.
        views: number of views of each class.
        scenes: number of whole scenes.
        retrieved: by direction, of whole scenes and captions that name several of their classes.
        regions_without_cell: percentage of regions too small for a cell of the dense feature.
    """

    accuracy: Table
    found: Table
    retrieved: Table
    views: int
    scenes: int
    regions_without_cell: float


def measure(clip: FrozenCLIP, views: int, scenes: int) -> Measured:
    """Measure on ``views`` held-out views of each class and ``scenes`` held-out whole scenes."""
    text = TextEncoder(clip)
    accuracy: Table = {group: {} for group in GROUPS}
    for vocabulary, column in zero_shot(text, *held_out_views(clip, views)).items():
        for group, percent in column.items():
            accuracy[group][vocabulary] = percent
    regions = measure_scenes(text, held_out_scenes(scenes))
    for group, percent in by_group(regions.classes, regions.recognized).items():
        accuracy[group][REGIONS] = percent
    found: Table = {group: {} for group in GROUPS}
    for k in TOP:
        for group, percent in by_group(regions.present, regions.rank < k).items():
            found[group][f"top {k}"] = percent
    without = 100 * float(np.mean(regions.without_cell))
    retrieved = retrieval(text, list(held_out_scenes(scenes)))
    return Measured(accuracy, found, retrieved, views, scenes, without)


def by_group(classes: Sequence[str], correct: np.ndarray) -> dict[str, float]:
    """Percentage of correct items in each group; NaN for a group without items.

    Args:
        classes: ground-truth class names of N items.
        correct: bool [N].
    """
    members = {
        group: np.array([name in names for name in classes], bool)
        for group, names in GROUPS.items()
    }
    return {
        group: 100 * float(correct[member].mean()) if member.any() else float("nan")
        for group, member in members.items()
    }


def held_out_views(clip: FrozenCLIP, views: int) -> tuple[list[Image.Image], list[str]]:
    """``views`` held-out views of every class, and their class names."""
    size = clip.preprocess_config.size
    side = size if isinstance(size, int) else size[0]
    source = CaptionedViews(HELD_OUT_SEED, views, _SCENES_FOR_GROUND)
    images: list[Image.Image] = []
    subjects: list[str] = []
    for _ in range(views):
        more_images, more_subjects = source.of_each_subject(side)
        images += more_images
        subjects += more_subjects
    return images, subjects


def zero_shot(
    text: TextEncoder, images: Sequence[Image.Image], subjects: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Accuracy of views with CLIP's image encoder, by class list and group."""
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    embedding = torch.cat([text.clip.embed_images(p) for p in _split(pixels, _BATCH)])
    results = {}
    for vocabulary, names in VOCABULARIES.items():
        best = (embedding @ text.encode(list(names.values())).T).argmax(dim=-1).tolist()
        correct = np.array([list(names)[b] == s for b, s in zip(best, subjects, strict=True)])
        results[vocabulary] = by_group(subjects, correct)
    return results


def held_out_scenes(count: int) -> Iterator[Scene]:
    """Yield whole scenes with the size and classes of the data sets."""
    for index in range(count):
        rng = np.random.default_rng((HELD_OUT_SEED, 3, index))
        yield draw_scene(rng, SCENE_SIZE, SCENE_SIZE, THINGS, STUFF)


@dataclass(frozen=True)
class MeasuredScenes:
    """Results for R regions and C classes, each class counted once per scene that shows it.

    Attributes:
        classes: ground-truth class of each region.
        recognized: bool [R], whether the region's embedding is nearest to its class.
        without_cell: bool [R], whether the region contains no cell of the dense feature.
        present: class names.
        rank: int [C], zero-based rank of each class by the embedding of the whole image.
    """

    classes: list[str]
    recognized: np.ndarray
    without_cell: np.ndarray
    present: list[str]
    rank: np.ndarray


def measure_scenes(text: TextEncoder, scenes: Iterable[Scene]) -> MeasuredScenes:
    """Classify regions by ground-truth masks over the dense feature, and rank classes by image."""
    weight = text.encode(WORLD)
    classes, recognized, without_cell, present, rank = [], [], [], [], []
    for scene in scenes:
        dense = text.clip(_enlarged(scene, text.clip))["dense"]
        segments = [segment for segment in scene.segments if not segment.is_crowd]
        if segments:
            masks = _cell_logits([segment.mask for segment in segments], dense)
            best = (text.clip.embed_masks(dense, masks)[0] @ weight.T).argmax(dim=-1)
            classes += [segment.name for segment in segments]
            recognized += [WORLD[i] for i in best.tolist()]
            without_cell += (~(masks[0] > 0).any(dim=(-2, -1))).tolist()
        order = (text.clip.embed_area(dense, torch.ones_like(dense[:, 0]))[0] @ weight.T).argsort(
            descending=True
        )
        ranked = [WORLD[i] for i in order.tolist()]
        names = sorted({segment.name for segment in scene.segments})
        present += names
        rank += [ranked.index(name) for name in names]
    correct = np.array([r == c for r, c in zip(recognized, classes, strict=True)], bool)
    return MeasuredScenes(classes, correct, np.array(without_cell, bool), present, np.array(rank))


def retrieval(text: TextEncoder, scenes: Sequence[Scene]) -> Table:
    """Find the caption of a whole scene among those of all scenes, and the scene of a caption.

    A caption names the classes of a scene, things before grounds, at most ``MAX_NAMED``. Where
    several scenes have the same caption, any of them is correct.

    Returns:
        Direction -> title of ``FIRST`` -> percentage.
    """
    captions = [whole_caption(scene) for scene in scenes]
    images = [_enlarged(scene, text.clip) for scene in scenes]
    dense = [text.clip(image)["dense"] for image in images]
    embedding = torch.cat([text.clip.embed_area(d, torch.ones_like(d[:, 0])) for d in dense])
    cosine = F.normalize(embedding, dim=-1) @ text.encode(captions, BARE).T
    same = torch.tensor([[a == b for b in captions] for a in captions])
    table: Table = {}
    for title, scores in (("caption of a scene", cosine), ("scene of a caption", cosine.T)):
        correct = same.gather(1, scores.cpu().argsort(dim=1, descending=True, stable=True))
        table[title] = {
            name: 100 * correct[:, :k].any(dim=1).double().mean().item()
            for name, k in FIRST.items()
        }
    return table


def whole_caption(scene: Scene) -> str:
    """Return the caption of a whole scene."""
    shown = {segment.name for segment in scene.segments}
    named = [name for name in WORLD if name in shown][:MAX_NAMED]
    return " and ".join(f"a {name}" for name in named)


def _enlarged(scene: Scene, clip: FrozenCLIP) -> Tensor:
    """Enlarged, normalized image as model input, [1, 3, H, W]."""
    height, width = (ENLARGED * side for side in scene.image.shape[:2])
    image = Image.fromarray(scene.image).resize((width, height), Image.Resampling.BILINEAR)
    mean, std = (torch.tensor(values) for values in (clip.pixel_mean, clip.pixel_std))
    pixels = (torch.from_numpy(np.array(image)) - mean) / std
    return pixels.permute(2, 0, 1)[None].to(clip.device)


def _cell_logits(masks: Sequence[np.ndarray], dense: Tensor) -> Tensor:
    """Masks [S, H, W] as logits of a perfect model, resized as in a model: [1, S, h, w]."""
    logits = torch.from_numpy(np.stack(masks)).float()[None].to(dense.device) * 2 - 1
    height, width = (ENLARGED * n // MASK_STRIDE for n in logits.shape[-2:])
    logits = F.adaptive_avg_pool2d(logits, (height, width))
    return F.interpolate(logits, size=dense.shape[-2:], mode="bilinear", align_corners=False)


def _split(items: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def markdown_table(table: Mapping[str, Mapping[str, float]]) -> str:
    """Format a table by group and measure, with percentages to one decimal."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    lines = [["classes", *columns], [":--", *("--:" for _ in columns)]]
    lines += [[name, *(f"{row[column]:.1f}" for column in columns)] for name, row in table.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
