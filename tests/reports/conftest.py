"""The scenes of the evaluators' tests."""

from tests.evaluation.conftest import scenes, scenes_folder

__all__ = ["scenes", "scenes_folder"]
