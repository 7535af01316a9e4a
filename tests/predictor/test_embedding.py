"""``model.embed`` and ``model.embed_text``: vectors in CLIP space."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import ita
from ita.errors import UserError

NAMES = ["red circle", "grass", "red circle", "crimson disc, red disc"]


@pytest.fixture(scope="module")
def embedding(toy, scene):
    return toy.embed(scene[0])


def lengths(vectors, axis):
    return np.linalg.norm(vectors, axis=axis)


def test_every_mask_has_a_unit_vector(toy, embedding):
    count, width = embedding.vectors.shape
    assert width == toy.model.backbone.embed_dim
    assert len(embedding.masks) == count > 0
    assert lengths(embedding.vectors, 1) == pytest.approx(1, abs=1e-5)
    assert embedding.vectors.dtype == embedding.masks.dtype == np.float32
    assert embedding.masks.min() >= 0
    assert embedding.masks.max() <= 1


def test_the_vector_of_a_mask_is_that_of_its_region_alone(toy, scene, embedding):
    """CLIP's embedding of the cells of the dense feature under the mask, found here by hand."""
    features = toy.encode(scene[0]).features
    best = int(embedding.masks.reshape(len(embedding.masks), -1).sum(axis=1).argmax())
    size = features.dense.shape[-2:]
    logits = torch.logit(torch.from_numpy(embedding.masks[best]), eps=1e-6)
    inside = F.interpolate(logits[None, None], size=size, mode="bilinear")[0, 0] > 0
    mean = features.dense[0][:, inside].mean(dim=1)
    projected = toy.model.backbone.tower.embed_masks(
        mean[None, :, None, None], torch.ones(1, 1, 1, 1, dtype=torch.bool)
    )
    cosine = F.cosine_similarity(projected[0, 0], torch.from_numpy(embedding.vectors[best]), dim=0)
    assert cosine > 0.999


def test_the_dense_map_is_the_sum_over_masks(embedding):
    height, width = embedding.masks.shape[1:]
    assert embedding.dense.shape == (embedding.vectors.shape[1], height, width)
    assert embedding.dense.dtype == np.float32
    for y, x in ((0, 0), (height // 2, width // 3), (height - 1, width - 1)):
        total = sum(
            mask[y, x] * vector
            for mask, vector in zip(embedding.masks, embedding.vectors, strict=True)
        )
        assert embedding.dense[:, y, x] == pytest.approx(total / np.linalg.norm(total), abs=1e-5)


def test_without_masks_the_dense_map_is_zero():
    none = ita.Embedding(np.zeros((0, 5), np.float32), np.zeros((0, 2, 3), np.float32), (8, 12))
    assert none.dense.shape == (5, 2, 3)
    assert not none.dense.any()


def test_masks_cover_the_image_without_its_padding(toy):
    """Each cell stands for 4 pixels of the image after resizing, here to a long side of 288."""
    image = np.zeros((50, 77, 3), np.uint8)
    embedding = toy.embed(image)
    height, width = toy.mapper.map_image(image)["image"].shape[1:]
    assert embedding.masks.shape[1:] == (-(-height // 4), -(-width // 4))
    assert embedding.image_size == (50, 77)


def test_texts_find_their_pixels(toy, scene, embedding):
    """The dense map, compared with the names of the scene, is a segmentation of it."""
    image, labels, names = scene
    cosines = np.tensordot(toy.embed_text(names), embedding.dense, axes=1)
    found = Image.fromarray(cosines.argmax(axis=0).astype(np.uint8))
    found = np.asarray(found.resize(image.shape[1::-1], Image.Resampling.NEAREST))
    known = labels >= 0
    assert (found == labels)[known].mean() > 0.8


def test_classes_only_choose_the_queries(toy, scene, embedding):
    own = toy.embed(scene[0], scene[2])
    training = toy.encode(scene[0]).embed(toy.model.train_class_list)
    assert own.vectors.shape[1] == embedding.vectors.shape[1]
    assert np.allclose(training.vectors, embedding.vectors, atol=1e-5)
    assert own.vectors.shape != training.vectors.shape or not np.allclose(
        own.vectors, training.vectors, atol=1e-3
    )


def test_a_low_precision_gives_unit_vectors_too(scene):
    low = ita.load(precision="bfloat16").embed(scene[0])
    assert lengths(low.vectors, 1) == pytest.approx(1, abs=1e-5)
    assert low.masks.dtype == np.float32


def test_text_vectors(toy):
    vectors = toy.embed_text(NAMES)
    assert vectors.shape == (4, toy.model.backbone.embed_dim)
    assert vectors.dtype == np.float32
    assert lengths(vectors, 1) == pytest.approx(1, abs=1e-5)
    assert (vectors[0] == vectors[2]).all()
    assert toy.embed_text([]).shape == (0, vectors.shape[1])
    # They are the classifier's, name by name.
    features = toy.segmenter(["grass, red circle"]).vocabulary.features.numpy()
    assert (features == vectors[[1, 0]]).all()


@pytest.mark.parametrize("names", ["cat", None, 3, ["cat", ""], ["cat", 3], [" "]])
def test_unusable_names(toy, names):
    with pytest.raises(UserError, match=r"names are a list|a name is a string"):
        toy.embed_text(names)
