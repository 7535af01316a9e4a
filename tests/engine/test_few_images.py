"""Evaluation in more processes than there are images."""

import json
import os
import subprocess
import sys

import pytest

from ita.toy.dataset import make_toy_dataset
from tests.engine.tiny import CONFIG, REPOSITORY, overrides


@pytest.mark.slow
def test_three_processes_evaluate_one_image(tmp_path):
    make_toy_dataset(tmp_path / "toy", train=1, val=1, test=1, size=64)
    results = []
    for count in (1, 3):
        folder = tmp_path / str(count)
        keys = overrides(OUTPUT_DIR=folder, DATASETS__TEST=("toy_val",))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={count}", "-m", "ita", "train", "--eval-only"]
        subprocess.run(
            [*command, "--config-file", CONFIG, *keys],
            cwd=REPOSITORY,
            env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path), "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            timeout=240,
        )
        results.append(json.loads((folder / "results.json").read_text())["results"]["toy_val"])
    one, three = results
    assert {"sem_seg", "panoptic_seg", "segm"} <= one.keys()
    assert one == three
