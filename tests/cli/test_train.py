"""``ita train`` as seen on a terminal."""

import re

import pytest

from ita.toy.dataset import make_toy_dataset
from tests.engine.tiny import CONFIG, overrides
from tests.terminal import lines_of, run_on_terminal


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_toy_dataset(root / "toy", train=4, val=3, test=1, size=64)
    return root


def test_bars_on_a_terminal_and_lines_in_the_log(datasets, tmp_path):
    words = overrides(OUTPUT_DIR=tmp_path / "run", SOLVER__MAX_ITER=3)
    command = ("-m", "ita", "train", "--config-file", str(CONFIG), *words)
    code, output = run_on_terminal(*command, DETECTRON2_DATASETS=str(datasets))
    assert code == 0, output
    assert "encoding 55 names × 14 prompts:   0%" in output
    # Drawn again below each line of the log, so at its end, too.
    assert re.search(r"training: 100%.* 3/3 .*it/s, loss [\d.]+, memory [\d.]+ GB\]", output)
    assert re.search(r"evaluating toy_val:   0%.* 0/3 .*images/s\]", output)
    lines = "\n".join(lines_of(output))
    assert "Results (" in lines
    assert "evaluating toy_val: 3 images in 0:00:" in lines
    assert "iter 3/3" not in lines  # which the bar shows
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "iter 3/3" in log
    assert "evaluating toy_val: 3 images in 0:00:" in log
    assert "%|" not in log


@pytest.mark.slow
def test_a_dry_run_of_two_processes_writes_nothing(datasets, tmp_path):
    words = overrides(OUTPUT_DIR=tmp_path / "run")
    options = ("--dry-run", "--num-gpus", "2", "--dist-url", "auto")
    command = ("-m", "ita", "train", "--config-file", str(CONFIG), *options, *words)
    code, output = run_on_terminal(*command, DETECTRON2_DATASETS=str(datasets))
    assert code == 0, output
    assert output.count("Dry run, nothing was written") == 1
    assert re.search(r"whole run +1,200 iterations .* minutes", output)
    assert list(tmp_path.iterdir()) == []
