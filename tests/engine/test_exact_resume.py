"""A run that is interrupted and resumed equals one that is not, to the last bit."""

import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from detectron2.engine import HookBase

from ita.engine.setup import seed_process
from ita.engine.trainer import Trainer
from tests.engine.tiny import CONFIG, REPOSITORY, overrides

STEPS = 6
WITHOUT_TEST = {"DATASETS__TEST": ()}


class Recorder(HookBase):
    """Records loss and images of each iteration."""

    def __init__(self):
        self.losses, self.images = {}, {}

    def before_train(self):
        self.trainer.model.register_forward_hook(
            lambda _, args, __: self.images.setdefault(self.trainer.iter, []).extend(
                record["image_id"] for record in args[0]
            )
        )

    def after_step(self):
        storage = self.trainer.storage
        self.losses[self.trainer.iter] = {
            name: value for name, (value, _) in storage.latest().items() if "loss" in name
        }


def run(cfg, *, resume=False):
    seed_process(cfg)
    recorder, trainer = Recorder(), Trainer(cfg)
    trainer.register_hooks([recorder])
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer, recorder


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


CASES = {
    "no worker": {"DATALOADER__NUM_WORKERS": 0},
    "a worker": {"DATALOADER__NUM_WORKERS": 1},
    "two workers": {"DATALOADER__NUM_WORKERS": 2},
    "accumulation": {"SOLVER__GRADIENT_ACCUMULATION_STEPS": 2},
    "mixed precision": {"SOLVER__AMP__ENABLED": True},
    "evaluation": {"TEST__EVAL_PERIOD": 2, "DATASETS__TEST": ("toy_val",)},
    "deterministic": {"SOLVER__DETERMINISTIC": True},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [2, 3], ids=["in an epoch", "at its end"])
def test_a_resumed_run_is_the_whole_one(case, stop, tiny_config, tmp_path):
    keys = {**WITHOUT_TEST, "SOLVER__MAX_ITER": STEPS, "SOLVER__CHECKPOINT_PERIOD": stop}
    cfg = tiny_config(**{**keys, **CASES[case]})
    _, whole = run(cfg)
    folder = tmp_path / "run"
    expected = weights(folder)
    (folder / "last_checkpoint").write_text(f"model_{stop - 1:07d}.pth")
    (folder / "model_final.pth").unlink()
    torch.manual_seed(99)
    _, resumed = run(cfg, resume=True)
    assert list(resumed.losses) == list(range(stop, STEPS))
    assert resumed.losses.items() <= whole.losses.items()
    assert resumed.images.items() <= whole.images.items()
    assert_same_weights(weights(folder), expected)


def test_every_image_is_seen_once_an_epoch(tiny_config, tmp_path):
    keys = {**WITHOUT_TEST, "SOLVER__CHECKPOINT_PERIOD": 0}
    seen = []
    for last in (2, 3, 6):  # of 3 iterations per epoch
        _, recorder = run(tiny_config(**keys, SOLVER__MAX_ITER=last), resume=True)
        seen += [image for images in recorder.images.values() for image in images]
    assert set(Counter(seen[:6]).values()) == set(Counter(seen[6:]).values()) == {1}
    assert seen[:6] != seen[6:]


def test_the_seed_is_that_of_the_checkpoint(tiny_config, tmp_path, caplog):
    keys = {**WITHOUT_TEST, "SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 4}
    _, whole = run(tiny_config(**keys))
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000001.pth")
    _, resumed = run(tiny_config(**keys, SEED=8), resume=True)
    assert resumed.losses.items() <= whole.losses.items()
    assert [m for m in caplog.messages if "SEED" in m] == ["SEED is 3, as in the checkpoint, not 8"]
    caplog.clear()
    drawn = Trainer(tiny_config(**keys, SEED=-1))
    drawn.resume_or_load(resume=True)
    assert drawn.state.seed == 3
    assert not [m for m in caplog.messages if "SEED" in m]  # which nobody has set


def test_checkpoints_of_earlier_versions_resume_with_a_warning(tiny_config, tmp_path, caplog):
    keys = {**WITHOUT_TEST, "SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 4}
    _, whole = run(tiny_config(**keys))
    path = tmp_path / "run" / "model_0000001.pth"
    content = torch.load(path, weights_only=True)
    del content["trainer"]["run"]
    torch.save(content, path)
    (tmp_path / "run" / "last_checkpoint").write_text(path.name)
    _, resumed = run(tiny_config(**keys), resume=True)
    assert resumed.images.items() <= whole.images.items()
    assert len([m for m in caplog.messages if "without exact resumption" in m]) == 1


def test_other_data_are_named(tiny_config, tmp_path, caplog):
    keys = {**WITHOUT_TEST, "SOLVER__CHECKPOINT_PERIOD": 0}
    run(tiny_config(**keys, SOLVER__MAX_ITER=1))
    more = {"SOLVER__MAX_ITER": 2, "DATASETS__TRAIN": ("toy_train", "toy_train")}
    run(tiny_config(**keys, **more), resume=True)
    assert "the training data have 12 images, in the checkpoint's run 6" in caplog.text


def train_in_processes(launcher, count, folder, root, *words):
    """Train in processes that torchrun or ``--num-gpus`` starts."""
    command = [sys.executable]
    if launcher == "torchrun":
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    else:
        words = (*words, "--num-gpus", str(count), "--dist-url", "auto")
    keys = overrides(OUTPUT_DIR=folder, SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=2)
    done = subprocess.run(
        [
            *command,
            "-m",
            "ita",
            "train",
            "--config-file",
            CONFIG,
            *words,
            *keys,
            "DATASETS.TEST",
            "()",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "num-gpus"])
def test_two_processes(launcher, toy_root, tmp_path):
    train_in_processes(launcher, 2, tmp_path, toy_root)
    expected = weights(tmp_path)
    for count, changed in ((2, False), (1, True)):
        (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
        output = train_in_processes(launcher, count, tmp_path, toy_root, "--resume")
        assert ("1 processes continue a run of 2" in output) == changed
        if not changed:
            assert_same_weights(weights(tmp_path), expected)
