"""Small data sets on disk, written by the tests, and the real samples where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ita.data.registration import register_all, register_semantic
from tests.data.mini import CLASSES, DOG, GRASS, PERSON, MiniPanoptic, random_image


@pytest.fixture(autouse=True)
def catalogs():
    """Leave Detectron2's catalogs with ITA's own sets only."""
    yield
    for name in [name for name in DatasetCatalog.list() if name.startswith("mini")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_all()


@pytest.fixture
def samples(monkeypatch) -> Path:
    """The folder of real samples, used as the root of all data sets."""
    folder = os.environ.get("ITA_SAMPLES")
    if not folder:
        pytest.skip("ITA_SAMPLES names no folder with real samples")
    monkeypatch.setenv("DETECTRON2_DATASETS", folder)
    return Path(folder)


@pytest.fixture
def panoptic(tmp_path) -> MiniPanoptic:
    return MiniPanoptic(tmp_path / "mini")


@pytest.fixture
def quarters(panoptic) -> MiniPanoptic:
    """One 40 x 60 image: person | crowd of dogs above void | grass, ids beyond 16 bits."""
    ids = np.zeros((40, 60), np.int64)
    ids[:20, :30], ids[:20, 30:], ids[20:, 30:] = 70000, 255, 300
    segments = {70000: (PERSON, 0), 255: (DOG, 1), 300: (GRASS, 0)}
    panoptic.add(random_image(40, 60), ids, segments)
    return panoptic


@pytest.fixture
def semantic(tmp_path):
    """Make a semantic set named "mini": its label maps -> its records."""

    def make(labels: list[np.ndarray], **keywords) -> list[dict]:
        root = tmp_path / "semantic"
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True)
        (root / "classes.txt").write_text(CLASSES)
        for number, label in enumerate(labels):
            image = random_image(*label.shape, seed=number)
            Image.fromarray(image).save(root / "images" / f"{number}.png")
            Image.fromarray(label).save(root / "labels" / f"{number}.png")
        register_semantic(
            "mini", root / "images", root / "labels", root / "classes.txt", **keywords
        )
        return DatasetCatalog.get("mini")

    return make
