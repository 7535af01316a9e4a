"""A small open-vocabulary world: scenes of objects with two attributes, some pairs never trained.

``names`` says what the classes are called and which are seen, ``drawing`` what they look like,
``scenes`` composes images, ``dataset`` writes them to disk, ``captions`` pairs views of them with
text.
"""

from ita.data.toy.dataset import make_toy_dataset
from ita.data.toy.scenes import Scene, Segment, draw_scene

__all__ = ["Scene", "Segment", "draw_scene", "make_toy_dataset"]
