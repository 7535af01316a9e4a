"""Trainings of which a process is killed or stopped; kill_restarts.py does it at random moments."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.engine.kill_restarts import Training, end_group, same, workers
from tests.engine.tiny import CONFIG, REPOSITORY, overrides

pytestmark = pytest.mark.slow
LIMIT = 240


def send(training, number, rank, text="iter 20/"):
    """Send a signal to a rank once the log has a text; return exit code and output at the end."""
    process = training.start()
    try:
        while text not in training.log.read_text():
            assert process.poll() is None, training.log.read_text()
            time.sleep(0.02)
        os.kill(workers(process)[rank], number)
        code = process.wait(LIMIT)
    finally:
        end_group(process)
    return code, training.log.read_text()


@pytest.fixture(scope="module")
def undisturbed(toy_root, tmp_path_factory):
    training = Training(tmp_path_factory.mktemp("whole") / "run", toy_root)
    assert training.start().wait(LIMIT) == 0
    return training.weights


@pytest.mark.parametrize(
    ("number", "rank"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)], ids=["killed", "stopped"]
)
def test_torchrun_restarts_and_the_run_continues(number, rank, undisturbed, toy_root, tmp_path):
    training = Training(tmp_path / "run", toy_root, timeout=10 if number == signal.SIGSTOP else 60)
    code, output = send(training, number, rank)
    assert code == 0, output
    assert "restarted by the launcher: continuing the run, as with --resume" in output
    assert "Resuming at iteration" in output
    if number == signal.SIGSTOP:
        assert f"error: rank {rank} of 2 died or did nothing for 10 s (--timeout)" in output
    assert same(training.weights, undisturbed)


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGKILL, "error: rank 1 of 2 died"),
        (signal.SIGSTOP, "error: rank 1 of 2 died or did nothing for 10 s (--timeout)"),
    ],
    ids=["killed", "stopped"],
)
def test_own_processes_end_with_one_line(number, line, toy_root, tmp_path):
    code, output = send(Training(tmp_path / "run", toy_root, "spawn", timeout=10), number, 1)
    assert code == 1
    assert output.count("error:") == 1
    assert line in output
    assert "Traceback" not in output


def ita(folder, root, *words, **keys):
    keys = overrides(OUTPUT_DIR=folder, **keys)
    return subprocess.run(
        [sys.executable, *words, "--config-file", CONFIG, *keys],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_a_submitted_training_is_the_same(toy_root, tmp_path):
    pytest.importorskip("submitit")
    keys = {"SOLVER__MAX_ITER": 4, "DATASETS__TEST": ()}
    words = ("-m", "ita", "train", "--num-gpus", "2")
    folders = [tmp_path / "submitted", tmp_path / "spawned"]
    for folder, more in zip(folders, (("--submit", "local"), ("--dist-url", "auto")), strict=True):
        done = ita(folder, toy_root, *words, *more, **keys)
        assert done.returncode == 0, done.stdout + done.stderr
    one, other = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in folders
    )
    assert same(one, other)
