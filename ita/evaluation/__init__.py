"""Evaluators, reports and pictures of predictions."""

from ita.evaluation.build import build_evaluator
from ita.evaluation.dominant import DominantEvaluator
from ita.evaluation.instance import InstanceEvaluator
from ita.evaluation.panoptic import PanopticEvaluator
from ita.evaluation.pictures import PicturesEvaluator, draw_picture, save_picture
from ita.evaluation.report import (
    format_class_table,
    format_seen_table,
    format_table,
    scalars,
    write_results,
)
from ita.evaluation.semantic import SemanticEvaluator

__all__ = [
    "DominantEvaluator",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "PicturesEvaluator",
    "SemanticEvaluator",
    "build_evaluator",
    "draw_picture",
    "format_class_table",
    "format_seen_table",
    "format_table",
    "save_picture",
    "scalars",
    "write_results",
]
