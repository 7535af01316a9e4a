"""Dominant category unearthing (paper section 3.3; design section 3).

The most likely classes of an image, by cosine similarity of text features and image embedding,
become the decoder's first queries.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ita.errors import UserError
from ita.modeling.storage import read_tensors
from ita.modeling.vocabulary import MAX_LOGIT_SCALE, Candidates

# Scale of cosine similarities in the smooth maximum over places.
PLACE_SCALE = 50.0
# Places compared with all candidates at once, which bounds the memory.
PLACES_AT_ONCE = 256


class DominantCategories(nn.Module):
    """Selects the top-K candidates of each image and projects their text features to queries.

    The two steps are separate, as the selection is also a result.

    Args:
        text_dim: width of the text features, D.
        hidden_dim: width of queries, h.
        num_dominant: K, at least 1.
    """

    def __init__(self, text_dim: int, hidden_dim: int, num_dominant: int) -> None:
        super().__init__()
        self.num_dominant = num_dominant
        self.projection = nn.Linear(text_dim, hidden_dim, bias=False)
        nn.init.normal_(self.projection.weight)

    @torch.no_grad()
    def rank(self, image_embedding: Tensor, candidates: Candidates) -> Tensor:
        """Select the top K candidates by cosine similarity with the image, ties in list order.

        Args:
            image_embedding: [B, D], F_cv, or [B, P, D], places; see :func:`candidate_scores`.
            candidates: M names.

        Returns:
            int64 [B, K'] into the candidates, with K' = min(K, M), most likely first.
        """
        scores = candidate_scores(image_embedding, candidates)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        # By numbers, since exporters take a slice to be as long as here.
        count = torch.sym_min(self.num_dominant, order.shape[1])
        return order[:, torch.arange(count, device=order.device)]

    def forward(self, index: Tensor, candidates: Candidates) -> Tensor:
        """Project the dominant categories to queries.

        Args:
            index: int64 [B, K'] into the candidates, as returned by :meth:`rank`.
            candidates: M names.

        Returns:
            [B, K', h] in the order of ``index``.
        """
        return self.projection(candidates.queries[index])


@torch.no_grad()
def candidate_probabilities(
    image_embedding: Tensor, candidates: Candidates, logit_scale: Tensor
) -> Tensor:
    """Compute the probability that CLIP gives each candidate as the text of an image.

    It is the softmax over all candidates of their cosine similarities with the image times CLIP's
    scale (design section 3). A name that occurs twice shares its probability.

    Args:
        image_embedding: [B, D], F_cv, or [B, P, D], places; see :func:`candidate_scores`.
        candidates: M names.
        logit_scale: scalar, the logarithm of CLIP's scale; the scale is capped at 100.

    Returns:
        float32 [B, M], each row of sum 1.
    """
    scale = logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)
    return (scale * candidate_scores(image_embedding, candidates)).softmax(dim=-1)


def candidate_scores(image_embedding: Tensor, candidates: Candidates) -> Tensor:
    """Compute how well each candidate fits an image, in units of cosine similarity.

    It is the similarity with the image or, of an image in places, a smooth maximum of the
    similarities with these, in which small objects count nearly as much as large ones:

        log(sum over places of w exp(s cos)) / s    with s = PLACE_SCALE

    Args:
        image_embedding: [B, D] of any length; or [B, P, D] of places, whose lengths are w.
        candidates: M names.

    Returns:
        float32 [B, M].
    """
    with torch.autocast(image_embedding.device.type, enabled=False):
        image_embedding = image_embedding.float()
        if image_embedding.ndim == 2:
            return F.normalize(image_embedding, dim=-1) @ candidates.ranking.T
        at_once = image_embedding.shape[1] if torch.compiler.is_exporting() else PLACES_AT_ONCE
        parts = [
            _log_sums(part, candidates.ranking) for part in image_embedding.split(at_once, dim=1)
        ]
        return torch.stack(parts).logsumexp(dim=0) / PLACE_SCALE


def _log_sums(places: Tensor, names: Tensor) -> Tensor:
    """Logarithm of the sum over places in :func:`candidate_scores`: [B, P, D], [M, D] -> [B, M]."""
    cosines = F.normalize(places, dim=-1) @ names.T
    return (places.norm(dim=-1, keepdim=True).log() + PLACE_SCALE * cosines).logsumexp(dim=1)


def load_name_table(path: Path, text_dim: int) -> dict[str, Tensor]:
    """Read a {name: feature} table such as the first release's ``category_tensor.pt``.

    Args:
        path: ``.pt`` (a dict of tensors, read without running any code) or ``.safetensors``.
        text_dim: D, the required width of the features.

    Returns:
        [D] float32 features by name.

    Raises:
        UserError: the file is missing, unreadable or malformed, or a feature has another width.
    """
    table = read_tensors(path, "name table")
    try:
        features = {name: feature.flatten().float() for name, feature in table.items()}
    except AttributeError as error:
        raise UserError(f"name table {path} contains values other than tensors") from error
    for name, feature in features.items():
        if len(feature) != text_dim:
            raise UserError(
                f"name table {path} has {len(feature)} values for {name!r}; this CLIP "
                f"requires {text_dim}"
            )
    return features


def valid_fraction(
    valid_sizes: Sequence[tuple[int, int]] | Tensor,
    grid: tuple[int, int],
    stride: int,
    device: torch.device,
) -> Tensor:
    """Fraction of each cell of a stride-``stride`` grid that is image rather than padding.

    Args:
        valid_sizes: (height, width) in pixels of each image, at the top left of its padded frame;
            or int64 [B, 2].
        grid: (h, w) in cells.

    Returns:
        [B, h, w] in 0-1.
    """
    size = torch.as_tensor(valid_sizes, dtype=torch.float32) / stride
    size = size.to(device, non_blocking=True)  # the GPU is busy with the image encoder

    def along(length: Tensor, cells: int) -> Tensor:
        return (length[:, None] - torch.arange(cells, device=device)).clamp(0, 1)

    return along(size[:, 0], grid[0])[:, :, None] * along(size[:, 1], grid[1])[:, None]
