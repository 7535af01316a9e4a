import itertools
import logging
import re

import pytest

from ita.engine.dry_run import Rehearsal, describe, dry_run
from ita.engine.trainer import Trainer
from ita.errors import UserError


@pytest.fixture
def prepared(tiny_config):
    """Makes trainers as a run has them when training begins."""

    def make(**more):
        trainer = Trainer(tiny_config(**more))
        trainer.resume_or_load(resume=False)
        return trainer

    return make


def test_a_dry_run_tries_every_part_and_writes_nothing(prepared, tmp_path, caplog):
    trainer = prepared(
        DATASETS__TEST=("toy_val", "toy_train"), SOLVER__GRADIENT_ACCUMULATION_STEPS=2
    )
    seen = []
    trainer.model.decoder.register_forward_hook(
        lambda _, args, __: seen.append(args[2].num_classes)
    )
    before = [p.clone() for p in trainer.model.parameters() if p.requires_grad]
    with caplog.at_level(logging.INFO):
        dry_run(trainer)
    training = trainer.model.train_class_list
    classes = [len(training), *(len(test_set.class_list) for test_set in trainer.test_sets)]
    runs = [(count, len([*passes])) for count, passes in itertools.groupby(seen)]
    assert [count for count, _ in runs] == classes
    assert runs[0][1] in (2, 4, 6)  # steps of two micro-batches; only one if that is slow
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    assert any(not one.equal(other) for one, other in zip(before, after, strict=True))
    assert list(tmp_path.iterdir()) == []
    lines = caplog.messages[-1].splitlines()
    titles = ["loading", "step", "memory", "evaluation", "evaluation", "whole run"]
    assert all(line.startswith(title) for title, line in zip(titles, lines[1:], strict=True))
    assert re.search(r"memory +[\d.]+ GB", caplog.messages[-1])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        # 10 s for a step and as much for its images; then 5 + 6 images of 100 s.
        ({}, "8,640 iterations and 1 evaluations in about 2.01 days, 18.3 minutes of that"),
        ({"DATALOADER__NUM_WORKERS": 2}, "in about 1.01 days"),
        ({"TEST__EVAL_PERIOD": 2880}, "3 evaluations in about 2.04 days, 55 minutes of that"),
        ({"DATASETS__TEST": ()}, "0 evaluations in about 2 days, 0 minutes of that"),
    ],
)
def test_expected_days(keys, expected, prepared):
    both = {"DATASETS__TEST": ("toy_val", "toy_train"), "SOLVER__MAX_ITER": 8640, **keys}
    trainer = prepared(**both)
    seconds = {test_set.name: 100.0 for test_set in trainer.test_sets}
    lines = describe(Rehearsal(10.0, 10.0, seconds, memory=2_000_000_000), trainer)
    assert expected in lines[-1]
    assert lines[0].startswith("loading     0.2 images/s")
    assert "memory      2.0 GB" in lines[2]


def test_days_of_the_rest_of_a_run(prepared):
    trainer = prepared(SOLVER__MAX_ITER=8640, TEST__EVAL_PERIOD=2880)
    trainer.start_iter = 5760
    lines = describe(Rehearsal(1.0, 10.0, {"toy_val": 0.0}, memory=1), trainer)
    assert "2,880 iterations and 1 evaluations in about 8.8 hours" in lines[-1]


def test_a_dry_run_fails_as_training_does(prepared, monkeypatch):
    trainer = prepared()
    trainer.model.criterion.register_forward_hook(
        lambda _, __, losses: losses.update(loss_mask_0=losses["loss_mask_0"] * float("nan"))
    )
    with pytest.raises(UserError, match=r"^training diverged at iteration 0: loss_mask_0 = nan, "):
        dry_run(trainer)
