"""The checkpoint with the best value of TEST.BEST_METRIC."""

import pytest
import torch
from torch import nn

from ita.engine.best import BestCheckpoint, check_best_metric
from ita.engine.checkpoint import read_checkpoint
from ita.engine.checkpointer import Checkpointer
from ita.engine.loading import describe_source, load_model_and_source
from ita.engine.recovery import find_resumable
from ita.engine.trainer import Trainer
from ita.errors import UserError, WriteError

METRIC = "toy_val/sem_seg/mIoU"


def make_model(value=0.0):
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    return model


def feed(best, model, values, first=1):
    """Evaluations one after the other; the weights are the number of the evaluation."""
    for number, value in enumerate(values, start=first):
        nn.init.constant_(model.weight, float(number))
        best.update({METRIC: value, "toy_val/sem_seg/pACC": 99.0}, iteration=100 * number)


def kept(folder):
    checkpoint = read_checkpoint(folder / "model_best.pth")
    return checkpoint["model"]["weight"].unique().item(), checkpoint


def test_weights_that_cannot_be_written_are_not_the_best(tmp_path):
    model = make_model()
    (tmp_path / "model_best.pth").mkdir()
    best = BestCheckpoint(Checkpointer(model, tmp_path), METRIC)
    with pytest.raises(WriteError, match=r"model_best\.pth"):
        feed(best, model, [12.5])
    (tmp_path / "model_best.pth").rmdir()
    feed(best, model, [11.0])
    assert kept(tmp_path)[1]["selected_by"]["value"] == 11.0


def test_the_best_evaluation_is_kept(tmp_path):
    model = make_model()
    feed(BestCheckpoint(Checkpointer(model, tmp_path), METRIC), model, [10.0, 12.5, 11.0])
    weight, checkpoint = kept(tmp_path)
    assert weight == 2.0
    assert checkpoint["selected_by"] == {"metric": METRIC, "value": 12.5}
    assert "trainer" not in checkpoint
    assert checkpoint["iteration"] == 199
    # A run resumes from its last checkpoint, which this is not.
    assert find_resumable(tmp_path) is None


def test_a_resumed_run_knows_its_best(tmp_path):
    model = make_model()
    feed(BestCheckpoint(Checkpointer(model, tmp_path), METRIC), model, [10.0, 12.5])
    resumed = BestCheckpoint(Checkpointer(model, tmp_path), METRIC)
    resumed.resume()
    feed(resumed, model, [11.0], first=3)
    assert kept(tmp_path)[0] == 2.0
    feed(resumed, model, [13.0], first=4)
    assert kept(tmp_path)[0] == 4.0


def test_a_new_run_and_another_metric_start_anew(tmp_path):
    model = make_model()
    feed(BestCheckpoint(Checkpointer(model, tmp_path), METRIC), model, [50.0])
    other = BestCheckpoint(Checkpointer(model, tmp_path), "toy_val/sem_seg/pACC")
    other.resume()
    feed(other, model, [1.0], first=2)
    assert kept(tmp_path)[0] == 2.0
    feed(BestCheckpoint(Checkpointer(model, tmp_path), METRIC), model, [3.0], first=3)
    assert kept(tmp_path)[0] == 3.0


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "model_best.pth").write_bytes(b"PK")
    best = BestCheckpoint(Checkpointer(make_model(), tmp_path), METRIC)
    with pytest.raises(UserError, match=r"model_best\.pth.*damaged"):
        best.resume()


@pytest.mark.parametrize("scalars", [{}, {METRIC: float("nan")}])
def test_a_missing_value_selects_nothing(tmp_path, caplog, scalars):
    BestCheckpoint(Checkpointer(make_model(), tmp_path), METRIC).update(scalars, iteration=1)
    assert not list(tmp_path.iterdir())
    assert f"TEST.BEST_METRIC {METRIC} is not among the results" in caplog.text


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("toy_val/sem_seg/mIou", "did you mean sem_seg/mIoU?"),
        ("mIoU", "is not DATA_SET/TASK/METRIC"),
        ("toy_train/sem_seg/mIoU", r"toy_train is not in DATASETS.TEST \(toy_val\)"),
        ("toy_val/segm/AP", "toy_val is evaluated for panoptic_seg, sem_seg only"),
    ],
)
def test_a_wrong_metric_is_found_before_training(metric, message):
    with pytest.raises(UserError, match=message):
        check_best_metric(metric, {"toy_val": ["panoptic_seg", "sem_seg"]})
    check_best_metric("", {})


def test_a_task_without_ground_truth_is_found_before_training(tiny_config):
    name = tiny_config().DATASETS.TEST[0]
    cfg = tiny_config(
        TEST__BEST_METRIC=f"{name}/panoptic_seg/PQ", MODEL__MASK_FORMER__TEST__PANOPTIC_ON=False
    )
    with pytest.raises(UserError, match=f"{name} is evaluated for segm, sem_seg only"):
        Trainer(cfg)


def test_training_keeps_the_best_and_evaluation_says_so(tiny_config, tmp_path):
    name = tiny_config().DATASETS.TEST[0]
    metric = f"{name}/sem_seg/mIoU"
    cfg = tiny_config(SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=1, TEST__BEST_METRIC=metric)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    model, source = load_model_and_source(cfg, str(tmp_path / "run" / "model_best.pth"))
    assert source["iteration"] in (1, 2)
    assert source["selected_by"]["metric"] == metric
    value = source["selected_by"]["value"]
    assert f"selected by {metric} = {value:.2f}" in describe_source(source)
    assert torch.isfinite(model.void_embedding.weight).all()


def test_a_resumed_training_does_not_replace_a_better_checkpoint(tiny_config, tmp_path):
    metric = f"{tiny_config().DATASETS.TEST[0]}/sem_seg/mIoU"
    best = {"SOLVER__MAX_ITER": 1, "TEST__BEST_METRIC": metric}
    trainer = Trainer(tiny_config(**best))
    trainer.resume_or_load(resume=False)
    trainer.train()
    file = tmp_path / "run" / "model_best.pth"
    content = torch.load(file, weights_only=True)
    torch.save({**content, "selected_by": {"metric": metric, "value": 101.0}}, file)
    before = file.read_bytes()
    trainer = Trainer(tiny_config(**{**best, "SOLVER__MAX_ITER": 2}))
    trainer.resume_or_load(resume=True)
    trainer.train()
    assert trainer.iter == 2
    assert file.read_bytes() == before
