"""The frozen CLIP (design section 1) against open_clip's own forward passes and plain loops."""

import copy

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ita.errors import UserError
from ita.modeling import clip as clip_module
from ita.modeling.clip import FrozenCLIP
from ita.modeling.image_towers import DENSE, STRIDES, ResNetTower, TimmTower

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture
def resnet64(resnet_clip):
    """The ResNet CLIP in float64, with branches that are not zero as they are at first."""
    clip = copy.deepcopy(resnet_clip).double()
    for name, parameter in clip.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.uniform_(parameter)
    return FrozenCLIP(clip.clip, clip.tokenizer)


def normalized_image(clip, height, width, batch=2):
    generator = torch.Generator().manual_seed(height)
    return torch.randn(batch, 3, height, width, generator=generator).to(clip.logit_scale.dtype)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (160, 64)])
def test_sizes_are_read_from_the_model(clip, height, width):
    features = clip(normalized_image(clip, height, width))
    for name, shape in clip.output_shape().items():
        expected = (2, shape.channels, height // shape.stride, width // shape.stride)
        assert features[name].shape == expected
        assert clip.channels[name] == shape.channels
    assert set(clip.output_shape()) == set(STRIDES)
    assert features[DENSE].shape == features["res5"].shape
    assert clip.encode_text(["a cat"]).shape == (1, clip.embed_dim)
    assert clip.embed_masks(features[DENSE], features[DENSE][:, :3]).shape[-1] == clip.embed_dim


def test_the_whole_image_is_embedded_as_clip_does(clip):
    """But for a ResNet's mean token, which is no key here."""
    image = normalized_image(clip, *clip_size(clip))
    dense = clip(image)[DENSE]
    whole = clip.embed_area(dense, torch.ones(2, *dense.shape[-2:]))
    if isinstance(clip.tower, TimmTower):
        torch.testing.assert_close(whole, clip.clip.encode_image(image), **CLOSE)
    everywhere = clip.embed_masks(dense, torch.ones(2, 1, *dense.shape[-2:]))
    torch.testing.assert_close(everywhere[:, 0], whole, **CLOSE)


def test_moving_arranges_the_image_tower_for_the_device(clip, monkeypatch):
    """Not the text tower, and never the values."""
    moved = copy.deepcopy(clip)
    monkeypatch.setattr(FrozenCLIP, "memory_format", torch.channels_last)
    moved.to("cpu")
    kernels = [p for p in moved.clip.visual.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    for one, other in zip(moved.state_dict().values(), clip.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def clip_size(clip):
    size = clip.clip.visual.image_size
    return size if isinstance(size, tuple) else (size, size)


def test_stages_stored_in_low_precision(clip):
    """Features stay close; the projection to CLIP space and whatever follows are in float32."""
    images = torch.randn(1, 3, 64, 96)
    expected = clip(images)
    stored = copy.deepcopy(clip)
    stored.store_stages(torch.bfloat16)
    assert stored.tower.dtype == torch.bfloat16
    ours = stored(images)
    for name, feature in expected.items():
        assert ours[name].dtype == torch.float32
        assert (ours[name] - feature).norm() < 0.05 * feature.norm(), name
    mask = torch.ones(1, 2, 2, 3)
    assert torch.equal(
        stored.embed_masks(expected["dense"], mask), clip.embed_masks(expected["dense"], mask)
    )
    image = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)]
    assert stored.embed_images(image).dtype == torch.float32


def test_padding_is_not_in_the_embedding_of_the_valid_area(clip):
    """Whatever the dense feature holds where no pixel is image, and cells count by their part."""
    torch.manual_seed(0)
    dense = torch.randn(1, clip.channels["res5"], 3, 4)
    fraction = torch.tensor([[[1, 1, 0.5, 0], [0.25, 0.25, 0.125, 0], [0, 0, 0, 0]]])
    embedded = clip.embed_area(dense, fraction)
    garbage = torch.where(fraction[:, None] > 0, dense, 1e3)
    torch.testing.assert_close(clip.embed_area(garbage, fraction), embedded, **CLOSE)
    torch.testing.assert_close(clip.embed_area(dense, 0.5 * fraction), embedded, **CLOSE)
    assert not torch.allclose(clip.embed_area(dense, (fraction > 0).float()), embedded, **CLOSE)


def test_convnext_regions_are_means_over_positive_cells(convnext_clip):
    clip = convnext_clip
    torch.manual_seed(0)
    dense, logits = torch.randn(2, clip.channels["res5"], 3, 5), torch.randn(2, 6, 3, 5)
    logits[0, 0], logits[0, 1] = -1, 0
    logits[0, 1, 2, 4] = 0.1
    ours = clip.embed_masks(dense, logits)
    trunk, head = clip.clip.visual.trunk.head, clip.clip.visual.head
    for b, q in [(b, q) for b in range(2) for q in range(6)]:
        cells = [dense[b, :, y, x] for y in range(3) for x in range(5) if logits[b, q, y, x] > 0]
        pooled = sum(cells, torch.zeros(dense.shape[1])) / max(len(cells), 1)
        normed = F.layer_norm(pooled, pooled.shape, trunk.norm.weight, trunk.norm.bias, 1e-6)
        torch.testing.assert_close(ours[b, q], head(normed[None])[0], **CLOSE)
    fraction = torch.rand(2, 3, 5)
    ours = clip.embed_area(dense, fraction)
    pooled = (dense * fraction[:, None]).sum((2, 3)) / fraction.sum((1, 2))[:, None]
    normed = F.layer_norm(pooled, pooled.shape[1:], trunk.norm.weight, trunk.norm.bias, 1e-6)
    torch.testing.assert_close(ours, head(normed), **CLOSE)


def attention_pooling(pool, query, cells, blocked):
    """CLIP's attention pooling by PyTorch's own function: query [C], cells [C, h, w] -> [D]."""
    side = round((len(pool.positional_embedding) - 1) ** 0.5)
    grid = pool.positional_embedding[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, cells.shape[-2:], mode="bilinear", align_corners=False)[0]
    keys = (cells + grid).flatten(1).T[:, None]
    return F.multi_head_attention_forward(
        query=(query + pool.positional_embedding[0])[None, None],
        key=keys,
        value=keys,
        embed_dim_to_check=len(query),
        num_heads=pool.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        training=False,
        key_padding_mask=blocked.flatten()[None],
    )[0][0, 0]


def test_resnet_regions_are_pooled_by_attention(resnet64):
    clip, pool = resnet64, resnet64.clip.visual.attnpool
    torch.manual_seed(0)
    dense = torch.randn(2, clip.channels["res5"], 3, 5, dtype=torch.float64)
    logits = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    logits[0, 1] = 0
    logits[0, 1, 2, 4] = 0.1
    ours = clip.embed_masks(dense, logits)
    for b, q in [(b, q) for b in range(2) for q in range(6)]:
        expected = attention_pooling(pool, dense[b].mean((1, 2)), dense[b], logits[b, q] <= 0)
        torch.testing.assert_close(ours[b, q], expected)
    fraction = torch.rand(2, 3, 5, dtype=torch.float64)
    fraction[:, :, 4] = 0
    ours = clip.embed_area(dense, fraction)
    for b in range(2):
        mean = (dense[b] * fraction[b]).sum((1, 2)) / fraction[b].sum()
        expected = attention_pooling(pool, mean, dense[b], fraction[b] == 0)
        torch.testing.assert_close(ours[b], expected)


@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 3), (1, 1)])
def test_places_are_squares_of_valid_cells(height, width, clip):
    """Each as the region of its mask, without padding, and as long as it is valid."""
    torch.manual_seed(0)
    dense = torch.randn(2, clip.channels["res5"], height, width)
    fraction = torch.ones(2, height, width)
    fraction[1, :, width // 2 + 1 :] = 0
    places = clip.embed_places(dense, fraction)
    masks = torch.zeros(height, width, height, width)
    for top in range(height):
        for left in range(width):
            masks[top, left, top : top + 2, left : left + 2] = 1
    masks = masks.flatten(0, 1) * fraction[:, None]
    assert places.shape == (2, height * width, clip.embed_dim)
    torch.testing.assert_close(places.norm(dim=-1), masks.flatten(2).sum(dim=2) / 4)
    if isinstance(clip.tower, TimmTower):  # a ResNet's query for a region is the whole image
        there = masks.flatten(2).any(dim=2)
        expected = F.normalize(clip.embed_masks(dense, masks - 0.5), dim=-1)
        ours = F.normalize(places, dim=-1)
        torch.testing.assert_close(ours[there], expected[there], rtol=1e-4, atol=1e-5)


def test_an_empty_mask_is_finite(clip):
    dense = torch.randn(1, clip.channels["res5"], 2, 3)
    empty = clip.embed_masks(dense, torch.full((1, 2, 2, 3), -1.0))
    assert empty.isfinite().all()
    if isinstance(clip.tower, ResNetTower):
        whole = clip.embed_masks(dense, torch.ones(1, 2, 2, 3))
        torch.testing.assert_close(empty, whole, **CLOSE)


def test_stages_continue_the_stem(clip):
    image = normalized_image(clip, 64, 64)
    layers = clip(image)
    if isinstance(clip.tower, ResNetTower):
        visual = clip.clip.visual
        x = visual.stem(image)
        assert x.shape[-2:] == (16, 16)
        assert torch.equal(visual.layer1(x), layers["res2"])
        assert torch.equal(layers["res5"], layers[DENSE])
    else:
        trunk = clip.clip.visual.trunk
        x = trunk.stem(image)
        assert x.shape[-2:] == (16, 16)
        assert torch.equal(trunk.stages[0](x), layers["res2"])
        assert torch.equal(trunk.forward_features(image), layers[DENSE])


def test_clip_stays_frozen(clip):
    clip = copy.deepcopy(clip)
    model = nn.ModuleDict({"backbone": clip, "head": nn.Linear(1, 1)})
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    model.train()
    assert model.head.training
    assert not any(module.training for module in clip.clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    image = normalized_image(clip, 64, 64).requires_grad_()
    features = clip(image)
    text = clip.encode_text(["a cat"])
    area = clip.embed_area(features[DENSE], torch.ones(2, 2, 2))
    for tensor in (
        *features.values(),
        text,
        area,
        clip.embed_masks(features[DENSE], torch.ones(2, 1, 2, 2)),
    ):
        assert not tensor.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in clip.state_dict().items())


@pytest.mark.parametrize("size", [(90, 130), (200, 70), (64, 64), (20, 31)])
def test_images_are_embedded_through_clips_evaluation_transform(clip, size):
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 256, (3, *s), dtype=torch.uint8, generator=generator)
        for s in (size, (50, 80))
    ]
    expected = torch.cat([clip.clip.encode_image(by_hand(clip, image)) for image in images])
    torch.testing.assert_close(clip.embed_images(images), expected, **CLOSE)


def by_hand(clip, image):
    """Bicubic resize of the shorter side, center crop, mean and standard deviation."""
    side = clip_size(clip)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    shorter = min(picture.size)
    picture = picture.resize([side * s // shorter for s in picture.size], Image.Resampling.BICUBIC)
    left, top = (round((s - side) / 2) for s in picture.size)
    picture = picture.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    mean, std = torch.tensor(clip.pixel_mean), torch.tensor(clip.pixel_std)
    return ((pixels - mean[:, None, None]) / std[:, None, None])[None]


def test_pixels_are_scaled_to_255(clip):
    assert clip.pixel_mean == pytest.approx([255 * m for m in open_clip.OPENAI_DATASET_MEAN])
    assert clip.pixel_std == pytest.approx([255 * s for s in open_clip.OPENAI_DATASET_STD])


TEXTS = ["", "cat", "a photo of a very small traffic light.", "word " * 100, "a", "zebra crossing"]


@pytest.mark.parametrize("batch", [1, 2, 512])
def test_texts_are_encoded_as_clip_does(clip, batch, monkeypatch):
    """Whatever stands in a batch with a text, and however long it is."""
    monkeypatch.setattr(clip_module, "TEXT_BATCH", batch)
    expected = clip.clip.encode_text(clip.tokenizer(TEXTS))
    torch.testing.assert_close(clip.encode_text(TEXTS), expected, **CLOSE)
    with torch.autocast("cpu", torch.bfloat16):
        ours = clip.encode_text(TEXTS)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, **CLOSE)


def test_other_image_towers_are_refused():
    tower = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(8, tower, text)
    with pytest.raises(UserError, match=r"convolutional.*VisionTransformer.* no such stages"):
        FrozenCLIP(clip, open_clip.tokenize)
