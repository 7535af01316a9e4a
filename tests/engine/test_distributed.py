import json
import os
import subprocess
import sys

import pytest
import torch

from tests.engine import short_run
from tests.engine.tiny import REPOSITORY


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


@pytest.fixture
def two_processes(toy_root, tmp_path):
    """The folder of a run of two processes under torchrun."""
    folder = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, "-m", "tests.engine.short_run", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(toy_root), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


def test_two_processes_are_one_on_the_joined_batch(tiny_config, two_processes, tmp_path):
    one, two = tmp_path / "one", two_processes
    cfg = short_run.config(one)
    torch.manual_seed(cfg.SEED)
    initial = short_run.Trainer(cfg)
    short_run.run(cfg, None)

    expected, got = weights(one), weights(two)
    assert expected.keys() == got.keys()
    difference = {k: (got[k] - v).abs().max().item() for k, v in expected.items()}
    assert max(difference.values()) < 1e-5, difference
    start = initial.model.state_dict()
    # All but biases in front of a norm, which have no gradient.
    moved = {k: (v - start[k]).abs().max().item() for k, v in expected.items()}
    assert sum(distance > 1e-4 for distance in moved.values()) > 0.9 * len(moved), moved

    seen = [json.loads((two / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert [s["world"] for s in seen] == [2, 2]
    images = [image for s in seen for image in s["images"]]
    assert len(seen[0]["images"]) == 3
    assert len(images) == len(set(images)) == 5
    alone = json.loads((one / "seen0.json").read_text())
    assert sorted(images) == sorted(alone["images"])
    # The second process gets the text classifier from the first.
    assert seen[0]["texts"] == alone["texts"] > 0
    assert seen[1]["texts"] == 0

    results = [json.loads((f / "results.json").read_text())["results"] for f in (one, two)]
    assert results[1]["toy_val"]["info"]["images"] == 5
    for task in ("sem_seg", "panoptic_seg", "segm"):
        assert results[1]["toy_val"][task].keys() == results[0]["toy_val"][task].keys()
    assert results[1]["toy_val"]["sem_seg"]["mIoU"] == pytest.approx(
        results[0]["toy_val"]["sem_seg"]["mIoU"], abs=0.1
    )
