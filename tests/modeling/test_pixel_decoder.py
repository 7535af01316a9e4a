"""Multi-scale feature encoder (design section 4)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ita.modeling.layers import sine_position
from ita.modeling.ops import deformable_attention
from ita.modeling.pixel_decoder import (
    DeformableAttention,
    DeformableEncoderLayer,
    PixelDecoder,
    cell_centers,
)

CHANNELS = {"res2": 5, "res3": 6, "res4": 7, "res5": 8}
CPU = torch.device("cpu")


def make_pyramid(height=64, width=96, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(batch, channels, height // s, width // s, generator=generator)
        for (name, channels), s in zip(CHANNELS.items(), (4, 8, 16, 32), strict=True)
    }


def make_decoder(**options):
    torch.manual_seed(0)
    sizes = {"hidden_dim": 64, "mask_dim": 20, "num_layers": 2, "num_heads": 8, "num_points": 4}
    return PixelDecoder(CHANNELS, **{**sizes, **options})


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 4), (3, 5, 8), (7, 2, 20)])
def test_sine_position_element_by_element(height, width, channels):
    position = sine_position(height, width, channels, CPU).view(height, width, channels)
    half = channels // 2
    for row in range(height):
        for column in range(width):
            for c in range(channels):
                count, last = (row + 1, height) if c < half else (column + 1, width)
                i = c % half
                angle = 2 * math.pi * count / (last + 1e-6) / 10000 ** (2 * (i // 2) / half)
                expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
                assert position[row, column, c].item() == pytest.approx(expected, abs=1e-5)


def test_cell_centers():
    centers = cell_centers(2, 4, CPU).view(2, 4, 2)
    assert torch.equal(centers[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert torch.equal(centers[:, 0, 1], torch.tensor([0.25, 0.75]))


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_deformable_attention_starts_by_looking_in_one_direction_per_head(heads):
    attention = DeformableAttention(16, heads, num_levels=3, num_points=4)
    attention.reset_parameters()
    for parameter in (attention.offsets.weight, *attention.weights.parameters()):
        assert not parameter.any()
    assert not attention.value.bias.any()
    assert not attention.output.bias.any()
    bias = attention.offsets.bias.view(heads, 3, 4, 2)
    for m in range(heads):
        x, y = math.cos(2 * math.pi * m / heads), math.sin(2 * math.pi * m / heads)
        longest = max(abs(x), abs(y))
        for p in range(4):
            expected = torch.tensor([x, y]) / longest * (p + 1)
            for level in range(3):
                torch.testing.assert_close(bias[m, level, p], expected, atol=1e-5, rtol=0)


def test_offsets_are_in_cells_of_their_level_and_weights_span_all_levels():
    torch.manual_seed(0)
    shapes = ((2, 3), (4, 6))
    attention = DeformableAttention(8, 2, num_levels=2, num_points=3)
    nn.init.normal_(attention.offsets.weight)
    query, value, reference = torch.randn(1, 30, 8), torch.randn(1, 30, 8), torch.rand(30, 2)
    ours = attention(query, value, reference, shapes)
    offsets = attention.offsets(query).view(1, 30, 2, 2, 3, 2)
    locations = torch.empty_like(offsets)
    for n, (h, w) in enumerate(shapes):
        locations[:, :, :, n, :, 0] = reference[:, None, None, 0] + offsets[:, :, :, n, :, 0] / w
        locations[:, :, :, n, :, 1] = reference[:, None, None, 1] + offsets[:, :, :, n, :, 1] / h
    weights = attention.weights(query).view(1, 30, 2, 6).softmax(-1).view(1, 30, 2, 2, 3)
    values = attention.value(value).view(1, 30, 2, 4)
    expected = attention.output(deformable_attention(values, shapes, locations, weights))
    torch.testing.assert_close(ours, expected)


def test_position_enters_the_query_and_not_the_value():
    torch.manual_seed(0)
    layer = DeformableEncoderLayer(16, num_heads=2, num_levels=1, num_points=2)
    seen = {}
    for name in ("weights", "value"):
        getattr(layer.attention, name).register_forward_hook(
            lambda _, args, __, name=name: seen.update({name: args[0]})
        )
    x, position = torch.randn(2, 6, 16), torch.randn(6, 16)
    output = layer(x, position, cell_centers(2, 3, CPU), ((2, 3),))
    torch.testing.assert_close(seen["weights"], x + position)
    assert torch.equal(seen["value"], x)
    attended = layer.attention(x + position, x, cell_centers(2, 3, CPU), ((2, 3),))
    middle = F.layer_norm(x + attended, (16,))
    ffn = layer.feed_forward
    expected = F.layer_norm(middle + ffn.linear2(F.relu(ffn.linear1(middle))), (16,))
    torch.testing.assert_close(output, expected)


def test_every_layer_gets_positions_of_levels_from_coarse_to_fine():
    decoder, pyramid, seen = make_decoder(), make_pyramid(), []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda _, args, __: seen.append(args))
    decoder(pyramid)
    assert len(seen) == 2
    for x, position, reference, shapes in seen:
        assert [tuple(s) for s in shapes] == [(2, 3), (4, 6), (8, 12)]
        start = 0
        for level, (h, w) in enumerate(shapes):
            rows = slice(start, start + h * w)
            expected = sine_position(h, w, 64, CPU) + decoder.level_embed[level]
            torch.testing.assert_close(position[rows], expected)
            torch.testing.assert_close(reference[rows], cell_centers(h, w, CPU))
            start += h * w
        assert x.shape == (2, start, 64)
    conv, norm = decoder.input_proj["res5"]
    coarse = F.group_norm(conv(pyramid["res5"]), 32, norm.weight, norm.bias)
    torch.testing.assert_close(seen[0][0][:, :6], coarse.flatten(2).transpose(1, 2))


def test_res2_joins_by_one_fpn_step():
    """Held against plain functions, with norms that are not the identity."""
    decoder = make_decoder(num_layers=1)
    for part in (decoder.lateral[1], decoder.fusion[1]):
        nn.init.normal_(part.weight)
        nn.init.normal_(part.bias)
    pyramid = make_pyramid()
    levels, mask_features = decoder(pyramid)
    lateral = F.conv2d(pyramid["res2"], decoder.lateral[0].weight)
    lateral = F.group_norm(lateral, 32, decoder.lateral[1].weight, decoder.lateral[1].bias)
    upsampled = F.interpolate(levels[2], scale_factor=2, mode="bilinear", align_corners=False)
    x = F.conv2d(lateral + upsampled, decoder.fusion[0].weight, padding=1)
    x = F.relu(F.group_norm(x, 32, decoder.fusion[1].weight, decoder.fusion[1].bias))
    expected = F.conv2d(x, decoder.mask_features.weight, decoder.mask_features.bias)
    torch.testing.assert_close(mask_features, expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 32), (64, 160)])
def test_sizes(height, width):
    levels, mask_features = make_decoder()(make_pyramid(height, width))
    assert [level.shape for level in levels] == [
        (2, 64, height // s, width // s) for s in (32, 16, 8)
    ]
    assert mask_features.shape == (2, 20, height // 4, width // 4)


def test_images_of_a_batch_do_not_mix():
    decoder, pyramid = make_decoder(), make_pyramid()
    levels, mask_features = decoder(pyramid)
    alone = decoder({name: feature[1:] for name, feature in pyramid.items()})
    torch.testing.assert_close(alone.mask_features, mask_features[1:])
    torch.testing.assert_close(alone.levels[2], levels[2][1:])


def test_initial_weights():
    decoder = make_decoder(hidden_dim=256, mask_dim=256, num_layers=1)
    layer = decoder.layers[0]

    def bound(weight):
        return math.sqrt(6 / (weight[0].numel() + weight[:, 0].numel()))

    matrices = [layer.feed_forward.linear1, layer.feed_forward.linear2, layer.attention.value]
    matrices += [layer.attention.output, *(p[0] for p in decoder.input_proj.values())]
    for module in matrices:
        assert module.weight.abs().max() <= bound(module.weight)
        assert module.weight.std().item() == pytest.approx(bound(module.weight) / 3**0.5, rel=0.1)
    for projection in decoder.input_proj.values():
        assert not projection[0].bias.any()
    for conv in (decoder.lateral[0], decoder.fusion[0], decoder.mask_features):
        uniform = math.sqrt(3 / conv.weight[0].numel())  # Kaiming with a = 1
        assert conv.weight.abs().max() <= uniform
        assert conv.weight.std().item() == pytest.approx(uniform / 3**0.5, rel=0.1)
    assert decoder.lateral[0].bias is None
    assert decoder.fusion[0].bias is None
    assert not decoder.mask_features.bias.any()
    assert decoder.level_embed.shape == (3, 256)
    assert decoder.level_embed.std().item() == pytest.approx(1, abs=0.15)
    assert layer.attention.offsets.bias[0] == 1
    assert not layer.attention.weights.weight.any()
    assert layer.feed_forward.linear1.out_features == 1024


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision(dtype, training, monkeypatch):
    decoder, sampled = make_decoder().train(training), []

    def recorded(value, shapes, locations, weights):
        sampled.extend([value.dtype, locations.dtype, weights.dtype])
        return deformable_attention(value, shapes, locations, weights)

    monkeypatch.setattr("ita.modeling.pixel_decoder.deformable_attention", recorded)
    pyramid = {name: feature.to(dtype) for name, feature in make_pyramid().items()}
    expected = decoder({name: feature.float() for name, feature in pyramid.items()})
    with torch.autocast("cpu", dtype):
        ours = decoder(pyramid)
    rounded = dtype == torch.bfloat16  # the range of float16 may be too small
    assert (ours.mask_features.dtype == dtype) == rounded
    assert set(sampled) == {torch.float32}
    for one, other in zip((*ours.levels, ours[1]), (*expected.levels, expected[1]), strict=True):
        error = (one.float() - other).norm() / other.norm()
        assert (0 < error < 0.01) if rounded else error == 0


def test_gradients_in_bfloat16_are_those_of_float32():
    gradients = []
    for enabled in (False, True):
        decoder = make_decoder()
        torch.manual_seed(0)
        for parameter in decoder.parameters():  # some matrices start at 0 and stop gradients
            nn.init.normal_(parameter, std=0.1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            levels, mask_features = decoder(make_pyramid())
        torch.manual_seed(1)
        sum((x * torch.randn(x.shape)).sum() for x in (*levels, mask_features)).backward()
        gradients.append({name: p.grad for name, p in decoder.named_parameters()})
    exact, rounded = gradients
    for name, gradient in exact.items():
        assert rounded[name].dtype == torch.float32
        cosine = (rounded[name] * gradient).sum() / rounded[name].norm() / gradient.norm()
        assert cosine > 0.99, name


def test_every_parameter_gets_a_gradient():
    decoder = make_decoder()
    for parameter in decoder.parameters():  # some matrices start at 0 and stop gradients
        nn.init.normal_(parameter, std=0.1)
    levels, mask_features = decoder(make_pyramid())
    sum((x * torch.randn_like(x)).sum() for x in (*levels, mask_features)).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
