"""Running evaluators over the scenes."""

from ita.evaluation.hit_rate import DominantEvaluator
from ita.evaluation.instance import InstanceEvaluator
from ita.evaluation.panoptic import PanopticEvaluator
from ita.evaluation.semantic import SemanticEvaluator
from ita.evaluation.truth import GroundTruth
from tests.evaluation.scenes import SEEN, random_prediction


def predictions(scenes, predict=random_prediction):
    return [predict(record) for record in scenes.records]


def evaluate(evaluator, records, outputs):
    """The metrics of an evaluator with one task, shown one image after the other."""
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    results = evaluator.evaluate()
    results.pop("confusions", None)
    (metrics,) = results.values()
    return metrics


def truth(scenes):
    return GroundTruth(scenes.metadata, scenes.class_list)


def semantic(scenes, outputs, seen=SEEN):
    evaluator = SemanticEvaluator(truth(scenes), scenes.class_list, seen)
    return evaluate(evaluator, scenes.records, outputs)


def panoptic(scenes, outputs, seen=SEEN):
    return evaluate(
        PanopticEvaluator(scenes.metadata, truth(scenes), seen), scenes.records, outputs
    )


def instance(scenes, outputs):
    return evaluate(InstanceEvaluator(scenes.metadata), scenes.records, outputs)


def dominant(scenes, outputs, seen=SEEN):
    evaluator = DominantEvaluator(truth(scenes), scenes.class_list, seen)
    return evaluate(evaluator, scenes.records, outputs)
