"""Trainings that signals stop, and that are resumed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from detectron2.engine import HookBase

from ita.engine.setup import seed_process
from ita.engine.trainer import Trainer
from ita.signals import SIGNALS, STOPPED
from tests.engine.tiny import CONFIG, REPOSITORY, overrides

SHORT = {"SOLVER__MAX_ITER": 5, "SOLVER__CHECKPOINT_PERIOD": 0, "DATASETS__TEST": ()}


class SendSignal(HookBase):
    def __init__(self, number, iteration):
        self.number, self.iteration = number, iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def run(cfg, *hooks, resume=False):
    seed_process(cfg)
    trainer = Trainer(cfg)
    trainer.register_hooks(hooks)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("workers", [0, 1])
def test_the_step_is_finished_and_saved(number, workers, tiny_config, tmp_path, caplog):
    keys = {**SHORT, "DATALOADER__NUM_WORKERS": workers}
    run(tiny_config(**keys, OUTPUT_DIR=tmp_path / "whole"))
    before = {s: signal.getsignal(s) for s in SIGNALS}
    stopped = run(tiny_config(**keys), SendSignal(number, iteration=1))
    assert {s: signal.getsignal(s) for s in SIGNALS} == before
    assert stopped.stopped
    # The step after the one in which the signal came.
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000002.pth"
    line = f"stopped by {number.name} after iteration 3 of 5; --resume continues"
    assert line in caplog.messages
    assert "total_loss" in (tmp_path / "run" / "metrics.json").read_text()
    resumed = run(tiny_config(**keys), resume=True)
    assert not resumed.stopped
    expected, got = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def start(folder, root, *words, **keys):
    """Start a long training in a process group of its own, with its output as lines."""
    more = {"DATASETS__TEST": (), "DATALOADER__NUM_WORKERS": 1, **keys}
    keys = overrides(OUTPUT_DIR=folder, SOLVER__MAX_ITER=100_000, **more)
    return subprocess.Popen(
        [sys.executable, "-m", "ita", "train", "--config-file", CONFIG, *words, *keys],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_steps(process):
    for line in process.stdout:
        if "iter 20/" in line:
            return
    raise AssertionError(process.stderr.read())


def wait_for_the_group(process):
    """Wait until no process of the group is left."""
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("processes are left")


@pytest.mark.parametrize(
    ("words", "send"),
    [
        ((), os.killpg),  # Ctrl-C reaches the data loader workers too
        pytest.param(("--num-gpus", "2"), os.kill, marks=pytest.mark.slow),
        pytest.param(("--num-gpus", "2"), os.killpg, marks=pytest.mark.slow),
    ],
    ids=["one process", "two, signal to the first", "two, signal to all"],
)
def test_a_stopped_process_leaves_no_trace(words, send, toy_root, tmp_path):
    words = (*words, "--dist-url", "auto")
    with start(tmp_path / "run", toy_root, *words) as process:
        wait_for_steps(process)
        send(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == STOPPED, errors
    assert output.count("stopped by SIGINT after iteration") == 1
    assert "Traceback" not in errors + output
    wait_for_the_group(process)
    name = (tmp_path / "run" / "last_checkpoint").read_text()
    assert torch.load(tmp_path / "run" / name, weights_only=True)["iteration"] >= 20
    assert "stopped by SIGINT" in (tmp_path / "run" / "log.txt").read_text()
