"""Image-caption pairs of the toy world: true, deterministic, in words that are all known."""

import itertools
import re

import numpy as np
import pytest
from PIL import Image, ImageChops

from ita.toy.captions import ALL_STUFF, SUBJECTS, CaptionedScenes, CaptionedViews, all_texts
from ita.toy.names import synonym

# Hue in 0-255 of coats that nothing else in the world has.
HUES = {"red": 252, "yellow": 38, "blue": 167, "purple": 200}


def captioned(seed: int = 1) -> CaptionedViews:
    return CaptionedViews(seed, portraits_each=1, num_scenes=60)


@pytest.fixture(scope="module")
def batch():
    return next(captioned().batches(100, 50, 64, 144))


def shares_of_hue(image: Image.Image, coat: str) -> float:
    hue, saturation, _ = np.moveaxis(np.asarray(image.convert("HSV")).astype(int), -1, 0)
    distance = np.abs((hue - HUES[coat] + 128) % 256 - 128)
    return float(((distance < 12) & (saturation > 120)).mean())


def test_the_same_seed_gives_the_same_batches(batch):
    again, other = (next(captioned(seed).batches(100, 50, 64, 144)) for seed in (1, 2))
    for ours, theirs, same in ((batch, again, True), (batch, other, False)):
        pairs = zip(ours.views + ours.scenes, theirs.views + theirs.scenes, strict=True)
        assert all(ImageChops.difference(a, b).getbbox() is None for a, b in pairs) == same
        assert (ours.captions == theirs.captions) == same


def test_views_are_of_different_subjects_and_their_captions_say_which(batch):
    assert len(batch.views) == 100
    assert {view.size for view in batch.views} == {(64, 64)}
    assert batch.shown[:100] == batch.named[:100]
    subjects = [subject for names in batch.named[:100] for subject in names]
    assert len(set(subjects)) == 100
    assert set(subjects) <= set(SUBJECTS)
    for subject, caption in zip(subjects, batch.captions, strict=False):
        assert subject in caption or synonym(subject) in caption


def test_a_view_shows_its_subject(batch):
    for view, (subject,) in zip(batch.views, batch.named, strict=False):
        coat = subject.split()[0]
        if coat in HUES:
            assert shares_of_hue(view, coat) > 0.05, subject


def test_a_window_shows_its_subject(batch):
    """Also in a mirrored scene."""
    assert len(batch.scenes) == 50
    checked = 0
    for (scene, *box), names in zip(batch.windows, batch.shown[100:], strict=True):
        assert 0 <= box[0] < box[2] <= 1
        assert 0 <= box[1] < box[3] <= 1
        coat = min(names).split()[0]
        if len(names) == 1 and coat in HUES:
            image = batch.scenes[scene]
            window = image.crop([round(side * image.width) for side in box])
            assert shares_of_hue(window, coat) > 0.03, names
            checked += 1
    assert checked > 20


def test_the_caption_of_a_whole_scene_names_up_to_five_of_its_classes(batch):
    captions = batch.captions[100:], batch.named[100:], batch.shown[100:]
    in_scene = {index: set() for index in range(50)}
    for (scene, *_), shown in zip(batch.windows, batch.shown[100:], strict=True):
        in_scene[scene] |= shown
    checked = 0
    for (scene, *box), caption, named, shown in zip(batch.windows, *captions, strict=True):
        if len(shown) > 1:
            assert box == [0, 0, 1, 1]
            assert shown == in_scene[scene]
            assert named <= shown
            assert len(named) == min(len(shown), 5)
            said = [name.removeprefix("a ") for name in caption.split(" and ")]
            assert len(said) == len(named)
            assert all(name in said or synonym(name) in said for name in named)
            checked += 1
    assert checked > 40


def test_the_view_of_a_ground_is_mostly_that_ground():
    """Of snow, which is all but white, and of sand, which is yellow, as little else is."""
    source = captioned()
    views = (zip(*source.of_each_subject(64), strict=True) for _ in range(10))
    shares = {"snow": [], "sand": []}
    for image, subject in itertools.chain.from_iterable(views):
        red, green, blue = np.moveaxis(np.asarray(image).astype(int), -1, 0)
        if subject == "snow":
            shares[subject].append((np.minimum(np.minimum(red, green), blue) > 170).mean())
        if subject == "sand":
            shares[subject].append((red > blue * 1.3).mean())
    for of_ground in shares.values():
        assert min(of_ground) > 0.5
        assert np.mean(of_ground) > 0.91  # 0.87 of snow if places were not chosen


def test_whole_scenes_show_what_their_captions_name():
    scenes = next(CaptionedScenes(1, 1, 60).batches(30, 30, 96))
    assert len({name for named in scenes.shown[:30] for name in named} - set(ALL_STUFF)) == 30
    assert any(len(shown - set(ALL_STUFF)) > 1 for shown in scenes.shown[30:])
    assert {view.size for view in scenes.views} == {(96, 96)}
    assert not scenes.scenes
    assert not scenes.windows
    assert all(named and named <= shown for named, shown in _pairs(scenes))
    assert {len(named) for named, _ in _pairs(scenes)} >= {1, 2, 3}
    assert any(named < shown for named, shown in _pairs(scenes))
    for view, names, caption in zip(scenes.views, scenes.named, scenes.captions, strict=True):
        for name in names:
            assert name in caption or synonym(name) in caption
            coat = name.split()[0]
            assert coat not in HUES or shares_of_hue(view, coat) > 0.004, name


def _pairs(batch):
    return list(zip(batch.named, batch.shown, strict=True))


def test_no_caption_has_a_word_that_is_not_listed():
    listed = {word for text in all_texts() for word in re.findall(r"\w+", text)}
    batches = itertools.islice(captioned().batches(128, 20, 64, 144), 5)
    batches = itertools.chain(
        batches, itertools.islice(CaptionedScenes(1, 1, 60).batches(120, 40, 16), 2)
    )
    said = {w for b in batches for caption in b.captions for w in re.findall(r"\w+", caption)}
    assert said <= listed
