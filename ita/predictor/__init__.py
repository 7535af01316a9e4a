"""Trained models that segment images in one call: the public interface."""

from ita.predictor.embedding import Embedding
from ita.predictor.opening import load
from ita.predictor.predicting import EncodedImage, Predictor
from ita.predictor.segmentation import DominantCategory, Segmentation
from ita.predictor.segments import Segment

__all__ = [
    "DominantCategory",
    "Embedding",
    "EncodedImage",
    "Predictor",
    "Segment",
    "Segmentation",
    "load",
]
