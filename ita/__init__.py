"""Image-Text Aggregation for open-vocabulary semantic segmentation (Cheng et al., 2025).

Public interface; each name is imported on first use::

    import ita

    model = ita.load()
    result = model.segment("image.jpg", ["cat, kitten", "sofa", "wall"])
    result.label_map, result.names
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from ita.errors import UserError, missing_module

if TYPE_CHECKING:
    from ita.classes import ClassList
    from ita.predictor import Embedding, Predictor, Segment, Segmentation, load
    from ita.segmenter import Segmenter

__all__ = [
    "ClassList",
    "Embedding",
    "Predictor",
    "Segment",
    "Segmentation",
    "Segmenter",
    "UserError",
    "load",
]

_MODULES = {
    "ClassList": "ita.classes",
    "Embedding": "ita.predictor",
    "Predictor": "ita.predictor",
    "Segment": "ita.predictor",
    "Segmentation": "ita.predictor",
    "Segmenter": "ita.segmenter",
    "load": "ita.predictor",
}

# Detectron2 and timm call torch.jit.script on import.
warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("ita")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if message := missing_module(error):
            raise ImportError(message) from None
        raise


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
