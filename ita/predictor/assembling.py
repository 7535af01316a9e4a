"""From the features of images to their segmentations."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ita.meta_arch import ITA, EncodedImages
from ita.modeling.dominant import candidate_probabilities
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.vocabulary import Vocabulary
from ita.predictor.segmentation import DominantCategory, Segmentation
from ita.predictor.segments import segments_of
from ita.segmenter import Segmenter


def segment_features(
    model: ITA,
    features: EncodedImages,
    images: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    options: InferenceOptions,
) -> list[Segmentation]:
    """Segment B images, given their features.

    Args:
        model: the network.
        features: features of the images.
        images: uint8 RGB [H, W, 3] each.
        vocabulary: the classes. If they mark no things, every class counts as a thing.
        options: results to compute, label maps among them.
    """
    class_list = vocabulary.class_list
    things = class_list.things or frozenset(range(len(class_list)))
    marked = replace(class_list, things=things)
    segmenter = Segmenter(model, replace(vocabulary, class_list=marked), options)
    dominant = _dominant_categories(model, features, vocabulary)
    results = zip(images, segmenter.segment_encoded(features), dominant, strict=True)
    return [
        Segmentation(
            label_map=result["label_map"].cpu().numpy(),
            class_list=class_list,
            image=image,
            dominant=categories,
            scores=result["sem_seg"].cpu().numpy() if options.scores else None,
            segments=segments_of(result, marked),
        )
        for image, result, categories in results
    ]


def _dominant_categories(
    model: ITA, features: EncodedImages, vocabulary: Vocabulary
) -> list[tuple[DominantCategory, ...]]:
    """Name the dominant categories of B images."""
    candidates = vocabulary.candidates
    if model.dominant is None or features.embedding is None or candidates is None:
        return [()] * len(features.sizes)
    index = model.dominant.rank(features.embedding, candidates)
    scale = model.backbone.logit_scale
    probability = candidate_probabilities(features.embedding, candidates, scale).gather(1, index)
    return [
        tuple(DominantCategory(candidates.names[i], p) for i, p in zip(indices, row, strict=True))
        for indices, row in zip(index.tolist(), probability.tolist(), strict=True)
    ]
