"""Progressive feature decoder (design section 5), part by part against PyTorch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ita.modeling.decoder import (
    Decoder,
    DecoderLayer,
    PredictionHead,
    mask_products,
    mean_over_masks,
    resized,
)
from ita.modeling.layers import MLP, Attention, sine_position
from ita.modeling.vocabulary import Classifier

CPU = torch.device("cpu")
TEXT = 10


def make_decoder(**options):
    torch.manual_seed(0)
    defaults = {"in_dim": 24, "mask_dim": 12, "text_dim": TEXT, "hidden_dim": 16}
    defaults |= {"num_queries": 5, "num_dominant": 3, "num_layers": 4, "num_heads": 4}
    defaults |= {"ffn_dim": 20, "self_attention": False, "num_levels": 3, "text_residual": False}
    return Decoder(**{**defaults, **options})


def make_inputs(batch=2, in_dim=24, mask_dim=12, height=8, width=12):
    generator = torch.Generator().manual_seed(1)

    def randn(*size):
        return torch.randn(*size, generator=generator)

    levels = [randn(batch, in_dim, height // s, width // s) for s in (8, 4, 2)]
    weight = F.normalize(randn(7, TEXT), dim=-1)
    classifier = Classifier(weight, torch.tensor([0, 0, 1, 2, 2, 2]), 3)
    return levels, randn(batch, mask_dim, height, width), classifier


def torch_attention(attention, width, heads):
    """PyTorch's module with an Attention's weights."""
    theirs = nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
    state = {
        "in_proj_weight": attention.in_proj.weight,
        "in_proj_bias": attention.in_proj.bias,
        "out_proj.weight": attention.out_proj.weight,
        "out_proj.bias": attention.out_proj.bias,
    }
    theirs.load_state_dict(state)
    return theirs


def randomized(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_pytorchs_with_a_residual_and_a_norm(masked):
    torch.manual_seed(0)
    attention = randomized(Attention(16, 4).double())
    theirs = torch_attention(attention, 16, 4)
    x, position = torch.randn(2, 5, 16).double(), torch.randn(5, 16).double()
    key, value = torch.randn(2, 9, 16).double(), torch.randn(2, 9, 16).double()
    allowed = torch.rand(2, 5, 9) > 0.5 if masked else None
    if masked:
        allowed[:, :, 0] = True
    blocked = None if allowed is None else (~allowed).repeat_interleave(4, dim=0)
    attended = theirs(x + position, key, value, attn_mask=blocked, need_weights=False)[0]
    expected = F.layer_norm(x + attended, (16,), attention.norm.weight, attention.norm.bias)
    torch.testing.assert_close(attention(x, key, value, position, allowed), expected)


@pytest.mark.parametrize("self_attention", [False, True])
def test_a_layer_is_cross_attention_then_self_attention_if_any_then_ffn(self_attention):
    torch.manual_seed(0)
    layer = randomized(DecoderLayer(16, 4, 20, self_attention).double())
    queries, position = torch.randn(2, 5, 16).double(), torch.randn(5, 16).double()
    key, value = torch.randn(2, 9, 16).double(), torch.randn(2, 9, 16).double()
    allowed = torch.rand(2, 5, 9) > 0.3
    allowed[:, :, 0] = True
    x = layer.cross_attention(queries, key, value, position, allowed)
    if self_attention:
        theirs = torch_attention(layer.self_attention, 16, 4)
        attended = theirs(x + position, x + position, x, need_weights=False)[0]
        norm = layer.self_attention.norm
        x = F.layer_norm(x + attended, (16,), norm.weight, norm.bias)
    else:
        assert layer.self_attention is None
    ffn = layer.feed_forward
    x = x + ffn.linear2(F.relu(ffn.linear1(x)))
    expected = F.layer_norm(x, (16,), ffn.norm.weight, ffn.norm.bias)
    torch.testing.assert_close(layer(queries, position, key, value, allowed), expected)


def test_mlp():
    mlp, x = MLP(4, 6, 3, 3), torch.randn(5, 4)
    assert [(m.in_features, m.out_features) for m in mlp.layers] == [(4, 6), (6, 6), (6, 3)]
    expected = mlp.layers[2](F.relu(mlp.layers[1](F.relu(mlp.layers[0](x)))))
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize("num_text", [None, 0, 3, 5])
def test_prediction_head_step_by_step(num_text):
    """With a text residual, the first queries have their text features in the class embedding."""
    torch.manual_seed(0)
    head = randomized(PredictionHead(16, 12, TEXT, text_residual=num_text is not None))
    queries, (_, mask_features, classifier) = torch.randn(2, 5, 16), make_inputs()
    text = torch.randn(2, num_text or 0, TEXT)
    prediction = head(queries, mask_features, classifier, text)
    x = F.layer_norm(queries, (16,), head.norm.weight, head.norm.bias)
    for mlp in (head.mask_embed, head.class_embed):
        assert [layer.in_features for layer in mlp.layers] == [16, 16, 16]
    norm, linear = head.region_proj
    for b in range(2):
        for q in range(5):
            embedding = head.mask_embed(x[b, q])
            logits = (mask_features[b] * embedding[:, None, None]).sum(0)
            torch.testing.assert_close(prediction.mask_logits[b, q], logits)
            inside = mask_features[b][:, logits > 0]
            region = inside.mean(dim=1) if inside.shape[1] else torch.zeros(12)
            region = linear(F.layer_norm(region, (12,), norm.weight, norm.bias))
            embedding = head.class_embed(region + x[b, q])
            if q < text.shape[1]:
                embedding = embedding + head.text_weight * text[b, q]
            embedding = F.normalize(embedding, dim=0)
            cosines = head.logit_scale.exp() * classifier.weight @ embedding
            expected = [cosines[:2].max(), cosines[2], cosines[3:6].max(), cosines[6]]
            torch.testing.assert_close(prediction.class_logits[b, q], torch.stack(expected))


def test_mean_over_masks():
    torch.manual_seed(0)
    features, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5).requires_grad_()
    with torch.no_grad():
        logits[0, 0], logits[0, 1] = -1, 0
    features.requires_grad_()
    means = mean_over_masks(features, logits)
    for b in range(2):
        for q in range(6):
            inside = features[b][:, logits[b, q] > 0]
            expected = inside.mean(dim=1) if inside.shape[1] else torch.zeros(3)
            torch.testing.assert_close(means[b, q], expected)
    assert not means[0, :2].any()
    means.sum().backward()
    assert logits.grad is None
    assert features.grad.any()


def test_mean_over_a_mask_of_more_cells_than_float16_counts():
    features = torch.full((1, 1, 300, 300), 2.0, dtype=torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        mean = mean_over_masks(features, torch.ones(1, 1, 300, 300, dtype=torch.float16))
    torch.testing.assert_close(mean, torch.full((1, 1, 1), 2.0))


def test_attention_mask():
    """Cells where the resized mask is at least one half, or all cells if there is none."""
    head, (_, features, _) = make_decoder().head, make_inputs()
    queries = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = mask_products(head.mask_embed(head.norm(queries)), features)
    allowed = head.attended(queries, resized(features, (1, 2)))
    masks = F.interpolate(logits, (1, 2), mode="bilinear", align_corners=False)
    assert allowed.shape == (2, 40, 2)
    assert allowed.dtype == torch.bool
    empty = 0
    for b in range(2):
        for q in range(40):
            inside = [z.sigmoid().item() >= 0.5 for z in masks[b, q].flatten()]
            assert allowed[b, q].tolist() == (inside if any(inside) else [True] * 2)
            empty += not any(inside)
    assert 0 < empty < 80


def test_the_gradient_of_a_masked_mean():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 6, 4, 5, dtype=torch.float64)

    def mean(x):
        return mean_over_masks(x, logits).double()

    assert torch.autograd.gradcheck(mean, features, eps=1e-3, atol=1e-3)


def test_the_last_layer_alone_predicts_the_same():
    decoder, inputs = make_decoder(), make_inputs()
    with torch.no_grad():
        expected = decoder(*inputs)[-1]
        (last,) = decoder(*inputs, every_layer=False)
    assert torch.equal(last.class_logits, expected.class_logits)
    assert torch.equal(last.mask_logits, expected.mask_logits)


def test_initial_weights():
    decoder = make_decoder(num_queries=100, num_dominant=50, hidden_dim=64)
    for embedding in (decoder.query_feature, decoder.query_position):
        assert embedding.weight.std().item() == pytest.approx(1, abs=0.05)
        assert embedding.weight.mean().abs() < 0.05
    assert decoder.query_position.weight.shape == (150, 64)
    assert decoder.level_embed.weight.std().item() == pytest.approx(1, abs=0.2)
    assert decoder.head.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    layer = decoder.layers[0]
    modules = (layer.cross_attention.in_proj, layer.cross_attention.out_proj)
    for module in (*modules, layer.feed_forward.linear1, layer.feed_forward.linear2):
        bound = math.sqrt(6 / sum(module.weight.shape))
        assert 0.9 * bound < module.weight.abs().max() <= bound
    assert not any(module.bias.any() for module in modules)
    for projection in decoder.input_proj:
        assert not projection.bias.any()


def test_features_are_projected_only_where_widths_differ():
    same, other = make_decoder(in_dim=16), make_decoder(in_dim=24)
    assert not list(same.input_proj.parameters())
    assert {p.weight.shape for p in other.input_proj} == {(16, 24, 1, 1)}


def layer_inputs(decoder, *inputs):
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, args, __: seen.append(args))
        for layer in decoder.layers
    ]
    predictions = decoder(*inputs)
    for hook in hooks:
        hook.remove()
    return seen, predictions


def test_layers_attend_the_levels_in_turn():
    """Keys have the sine position, values do not; the mask is that of the prediction before."""
    decoder, (levels, mask_features, classifier) = make_decoder(), make_inputs()
    seen, predictions = layer_inputs(decoder, levels, mask_features, classifier)
    assert len(seen) == 4
    assert len(predictions) == 5
    for i, (queries, _, key, value, allowed) in enumerate(seen):
        level = levels[i % 3]
        h, w = level.shape[-2:]
        expected = decoder.input_proj[i % 3](level).flatten(2).transpose(1, 2)
        expected = expected + decoder.level_embed.weight[i % 3]
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(key - value, sine_position(h, w, 16, CPU).expand_as(key))
        masks = F.interpolate(
            predictions[i].mask_logits, (h, w), mode="bilinear", align_corners=False
        )
        inside = masks.flatten(2) >= 0
        assert torch.equal(allowed, inside | ~inside.any(dim=-1, keepdim=True))
        ours = decoder.head(queries, mask_features, classifier)
        torch.testing.assert_close(ours.class_logits, predictions[i].class_logits)
    assert predictions[-1].class_logits.shape == (2, 5, 4)
    assert predictions[-1].mask_logits.shape == (2, 5, 8, 12)


@pytest.mark.parametrize("present", [1, 2, 3])
def test_dominant_queries_come_first_and_fewer_take_the_first_positions(present):
    decoder, inputs = make_decoder(), make_inputs()
    dominant = torch.randn(2, present, 16)
    seen, predictions = layer_inputs(decoder, *inputs, dominant)
    queries, position = seen[0][:2]
    assert torch.equal(queries[:, :present], dominant)
    assert torch.equal(queries[:, present:], decoder.query_feature.weight.expand(2, -1, -1))
    rows = decoder.query_position.weight
    assert torch.equal(position, torch.cat([rows[:present], rows[3:]]))
    assert predictions[-1].class_logits.shape[1] == present + 5


def test_without_dominant_queries():
    decoder = make_decoder(num_dominant=0)
    seen, predictions = layer_inputs(decoder, *make_inputs())
    assert torch.equal(seen[0][0][1], decoder.query_feature.weight)
    assert torch.equal(seen[0][1], decoder.query_position.weight)
    assert decoder.query_position.weight.shape == (5, 16)
    assert predictions[0].mask_logits.shape[1] == 5


def test_queries_see_each_other_only_with_self_attention():
    """What one query starts as reaches another's last prediction only then."""
    for self_attention in (False, True):
        decoder, inputs = make_decoder(self_attention=self_attention), make_inputs()
        before = decoder(*inputs)[-1].class_logits
        with torch.no_grad():
            decoder.query_feature.weight[0] += 1
        after = decoder(*inputs)[-1].class_logits
        assert torch.equal(before[:, 1:], after[:, 1:]) is not self_attention


def test_images_of_a_batch_do_not_mix():
    decoder, (levels, mask_features, classifier) = make_decoder(), make_inputs()
    dominant = torch.randn(2, 3, 16)
    together = decoder(levels, mask_features, classifier, dominant)[-1]
    alone = decoder([x[1:] for x in levels], mask_features[1:], classifier, dominant[1:])[-1]
    torch.testing.assert_close(alone.class_logits, together.class_logits[1:])
    torch.testing.assert_close(alone.mask_logits, together.mask_logits[1:])


@pytest.mark.parametrize(
    "options", [{}, {"self_attention": True}, {"num_dominant": 0}, {"text_residual": True}]
)
def test_every_parameter_gets_a_gradient(options):
    decoder, inputs = make_decoder(**options), make_inputs()
    text_queries = (torch.randn(2, 3, 16), torch.randn(2, 3, TEXT))
    for prediction in decoder(*inputs, *(text_queries if decoder.num_dominant else ())):
        sum((x * torch.randn_like(x)).sum() for x in prediction).backward(retain_graph=True)
    for name, parameter in decoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_types_under_mixed_precision():
    decoder, types = make_decoder(self_attention=True), {}
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda _, __, out, name=name: types.update({name: out.dtype})
            )
    with torch.autocast("cpu", torch.bfloat16):
        prediction = decoder(*make_inputs(), torch.randn(2, 3, 16))[-1]
    assert {types[name] for name in types if name.endswith(("linear1", "out_proj"))} == {
        torch.bfloat16
    }
    assert {types[name] for name in types if "embed" in name} == {torch.bfloat16}
    assert prediction.mask_logits.dtype == torch.bfloat16
