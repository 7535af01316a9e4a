"""Dominant category unearthing (design section 3)."""

import math

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from ita.errors import UserError
from ita.modeling.dominant import (
    PLACE_SCALE,
    DominantCategories,
    candidate_probabilities,
    candidate_scores,
    load_name_table,
    valid_fraction,
)
from ita.modeling.vocabulary import Candidates

WIDTH = 6


def make_candidates(count, seed=0):
    torch.manual_seed(seed)
    ranking = F.normalize(torch.randn(count, WIDTH), dim=-1)
    return candidates_of(ranking, torch.randn(count, WIDTH))


def candidates_of(ranking, queries):
    names = tuple(f"name {i}" for i in range(len(ranking)))
    return Candidates(names, ranking, queries, torch.arange(len(ranking)))


def ranked(image, candidates):
    """Indices by falling cosine, ties in list order."""
    image = image.double() / image.double().norm()
    cosines = [float(image @ row.double()) for row in candidates.ranking]
    return sorted(range(len(cosines)), key=lambda i: (-cosines[i], i))


@pytest.mark.parametrize("num_dominant", [1, 4, 9, 10, 30])
def test_ranking_and_queries(num_dominant):
    candidates, images = make_candidates(10), 5 * torch.randn(3, WIDTH)
    dominant = DominantCategories(WIDTH, 8, num_dominant)
    index = dominant.rank(images, candidates)
    queries = dominant(index, candidates)
    kept = min(num_dominant, 10)
    assert queries.shape == (3, kept, 8)
    for b, image in enumerate(images):
        order = ranked(image, candidates)
        assert index[b].tolist() == order[:kept]
        for query, i in zip(queries[b], order, strict=False):
            torch.testing.assert_close(query, dominant.projection.weight @ candidates.queries[i])


def test_ties_keep_the_list_order():
    one = F.normalize(torch.randn(1, WIDTH), dim=-1)
    ranking = torch.cat([-one, one, one, -one, one])
    candidates = candidates_of(ranking, torch.zeros(5, WIDTH))
    index = DominantCategories(WIDTH, 8, 5).rank(one.repeat(2, 1), candidates)
    assert index.tolist() == [[1, 2, 4, 0, 3]] * 2


@pytest.mark.parametrize("log_scale", [0.0, 2.5, 10.0])
def test_probabilities_are_those_of_clip(log_scale):
    """Softmax of all cosines times the scale, of at most 100, whatever becomes a query."""
    candidates, images = make_candidates(10), 5 * torch.randn(3, WIDTH)
    probabilities = candidate_probabilities(images, candidates, torch.tensor(log_scale))
    cosines = F.cosine_similarity(images[:, None], candidates.ranking[None], dim=-1)
    expected = (min(math.exp(log_scale), 100) * cosines).softmax(dim=-1)
    torch.testing.assert_close(probabilities, expected)
    index = DominantCategories(WIDTH, 8, 10).rank(images, candidates)
    falling = probabilities.gather(1, index)
    assert (falling.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("places", [1, 3, 300])
def test_scores_of_places_are_their_smooth_maximum(places):
    """Weighted by the lengths, of which 0 is no place; the float64 definition is the oracle."""
    candidates = make_candidates(12)
    images = torch.randn(2, places, WIDTH)
    images[1, places // 2 + 1 :] = 0
    scores = candidate_scores(images, candidates)
    for image, row in zip(images.double(), scores, strict=True):
        cosines = F.normalize(image, dim=-1) @ candidates.ranking.double().T
        weighted = image.norm(dim=1)[:, None] * (PLACE_SCALE * cosines).exp()
        expected = weighted.sum(dim=0).log() / PLACE_SCALE
        torch.testing.assert_close(row.double(), expected, rtol=0, atol=1e-5)


def test_a_name_at_one_place_is_found():
    candidates = make_candidates(10)
    places = candidates.ranking[0].repeat(1, 60, 1)
    places[0, 17] = candidates.ranking[6]
    index = DominantCategories(WIDTH, 8, 2).rank(places, candidates)
    assert set(index[0].tolist()) == {0, 6}
    mean = DominantCategories(WIDTH, 8, 2).rank(places.mean(dim=1), candidates)
    assert 6 not in mean[0]


def test_ten_thousand_names_in_many_places():
    candidates = make_candidates(10_000)
    index = DominantCategories(WIDTH, 8, 20).rank(torch.randn(1, 300, WIDTH), candidates)
    assert index.shape == (1, 20)
    assert len(set(index[0].tolist())) == 20


def test_the_length_of_the_image_embedding_does_not_matter():
    candidates, image = make_candidates(10), torch.randn(1, WIDTH)
    dominant = DominantCategories(WIDTH, 8, 10)
    one, other = dominant.rank(image, candidates), dominant.rank(1e-3 * image, candidates)
    assert torch.equal(one, other)


def test_the_map_is_linear_without_bias_and_starts_standard_normal():
    dominant = DominantCategories(200, 100, 20)
    assert [name for name, _ in dominant.named_parameters()] == ["projection.weight"]
    weight = dominant.projection.weight
    assert weight.shape == (100, 200)
    assert weight.mean().abs() < 0.03
    assert weight.std().item() == pytest.approx(1, abs=0.03)


def test_ranking_is_in_float32_under_mixed_precision():
    """Cosines as close as those of class names would be equal in bfloat16."""
    steps = torch.linspace(0, 0.01, 50)[torch.randperm(50)]
    rows = F.normalize(torch.stack([1 - steps, steps, *torch.zeros(4, 50)], dim=1), dim=-1)
    candidates, image = candidates_of(rows, rows), torch.eye(WIDTH)[:1]
    dominant = DominantCategories(WIDTH, 8, 50)
    with torch.autocast("cpu", torch.bfloat16):
        index = dominant.rank(image.bfloat16(), candidates)
        assert dominant(index, candidates).dtype == torch.bfloat16
    assert torch.equal(index[0], steps.argsort())


def test_only_the_map_gets_a_gradient():
    candidates, image = make_candidates(5), torch.randn(2, WIDTH, requires_grad=True)
    dominant = DominantCategories(WIDTH, 8, 3)
    dominant(dominant.rank(image, candidates), candidates).sum().backward()
    assert image.grad is None
    assert dominant.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("stride", [4, 32])
def test_valid_fraction_is_that_of_the_pixels(stride):
    sizes = [
        (1, 1),
        (stride, stride),
        (stride + 1, 3 * stride - 1),
        (3 * stride, 2),
        (2, 4 * stride),
    ]
    grid = (3, 4)
    fraction = valid_fraction(sizes, grid, stride, torch.device("cpu"))
    for (h, w), ours in zip(sizes, fraction, strict=True):
        pixels = torch.zeros(1, grid[0] * stride, grid[1] * stride)
        pixels[:, :h, :w] = 1
        torch.testing.assert_close(ours, F.avg_pool2d(pixels, stride)[0])


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_name_table_in_float16(suffix, tmp_path):
    table = {"cat": torch.randn(WIDTH).half(), "other": torch.randn(1, WIDTH).half()}
    path = tmp_path / f"table{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(table, path)
    loaded = load_name_table(path, WIDTH)
    assert loaded.keys() == table.keys()
    for name, feature in loaded.items():
        assert feature.dtype == torch.float32
        assert torch.equal(feature, table[name].flatten().float())


class Code:
    def __reduce__(self):
        return print, ("this was run",)


UNUSABLE = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello world"),
    "list": lambda path: torch.save([torch.zeros(WIDTH)], path),
    "not features": lambda path: torch.save({"cat": "dog"}, path),
    "code": lambda path: torch.save({"cat": Code()}, path),
    "width": lambda path: torch.save({"cat": torch.zeros(WIDTH + 1)}, path),
}


@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_unusable_name_tables(kind, suffix, tmp_path, capsys):
    path = tmp_path / f"table{suffix}"
    UNUSABLE[kind](path)
    with pytest.raises(UserError) as caught:
        load_name_table(path, WIDTH)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("does not exist" in str(caught.value)) is (kind == "missing")
    assert not capsys.readouterr().out
