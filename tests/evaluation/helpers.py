"""Running evaluators over the scenes."""

from ita.evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from tests.evaluation.scenes import random_prediction


def predictions(scenes, predict=random_prediction):
    return [predict(record) for record in scenes.records]


def evaluate(evaluator, records, outputs):
    """The metrics of an evaluator with one task, shown one image after the other."""
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    (metrics,) = evaluator.evaluate().values()
    return metrics


def semantic(scenes, outputs):
    evaluator = SemanticEvaluator(scenes.metadata, scenes.class_list)
    return evaluate(evaluator, scenes.records, outputs)


def panoptic(scenes, outputs):
    return evaluate(PanopticEvaluator(scenes.metadata), scenes.records, outputs)


def instance(scenes, outputs):
    return evaluate(InstanceEvaluator(scenes.metadata), scenes.records, outputs)
