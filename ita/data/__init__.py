"""Data sets, class lists, mappers and loaders.

Importing this package registers the data sets of the catalogue with Detectron2.
"""

from ita.data.class_lists import read_class_list
from ita.data.custom import register_custom
from ita.data.loaders import build_test_loader, build_train_loader
from ita.data.mapper import InferenceMapper, TrainingMapper
from ita.data.reading import load_semantic_label
from ita.data.registration import (
    class_list_for,
    register_all,
    register_panoptic,
    register_semantic,
)

__all__ = [
    "InferenceMapper",
    "TrainingMapper",
    "build_test_loader",
    "build_train_loader",
    "class_list_for",
    "load_semantic_label",
    "read_class_list",
    "register_all",
    "register_custom",
    "register_panoptic",
    "register_semantic",
]

register_all()
