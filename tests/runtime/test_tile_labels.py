"""Label maps by numpy: those of the PyTorch definition."""

import numpy as np
import pytest
import torch

from ita.modeling.ops.label_map import plain_label_map
from ita.modeling.postprocess import class_probabilities
from ita.modeling.query_masks import QueryMasks
from ita.runtime.tile_labels import Frame, label_map

FRAMES = {
    "smaller output": ((64, 96), (60, 90), (40, 61)),
    "larger output": ((64, 96), (50, 96), (103, 131)),
    "same size": ((96, 64), (90, 33), (90, 33)),
    "one pixel": ((32, 32), (1, 32), (1, 40)),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("resize_logits", [False, True])
@pytest.mark.parametrize("num_classes", [1, 3, 40])
def test_the_definition(frame, resize_logits, num_classes):
    padded, valid, output = FRAMES[frame]
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(9, padded[0] // 4, padded[1] // 4, generator=generator)
    scores = (2 * torch.randn(9, num_classes + 1, generator=generator)).log_softmax(dim=-1)
    masks = QueryMasks(logits, padded, valid, output, resize_logits)
    expected = plain_label_map(class_probabilities(scores), masks).numpy()
    result = label_map(logits.numpy(), scores.numpy(), Frame(padded, valid, output, resize_logits))
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert (result == expected).all()


def test_of_equal_classes_the_first():
    logits = np.random.default_rng(0).normal(size=(4, 16, 16)).astype(np.float32)
    scores = np.log(np.full((4, 6), 1 / 6, np.float32))
    frame = Frame((64, 64), (64, 64), (64, 64), False)
    assert (label_map(logits, scores, frame) == 0).all()
