"""The check of a machine for training, on the CPU."""

from functools import partial

import pytest

from tests.tools.scripts import run_tool

check = partial(run_tool, "gpu_check.py")


def test_steps_are_measured_on_any_device(tmp_path):
    report = tmp_path / "report.md"
    small = ("--config-file", "configs/toy/ita_tiny_random.yaml", "--size", "64", "--steps", "1")
    only = ("--only", "training", "--skip-tests", "--output", str(report))
    result = check("--device", "cpu", *small, *only)
    assert result.returncode == 0, result.stderr
    text = report.read_text()
    assert text.startswith("# ")
    lines = [line for line in text.splitlines() if line.startswith("| training step")]
    assert [line.split("|")[2].strip() for line in lines] == ["float32", "bfloat16 autocast"]
    for line in lines:
        images, seconds, rate, memory = map(float, line.split("|")[3:7])
        assert images == 2
        assert rate == pytest.approx(images / seconds, rel=0.2, abs=0.01)
        assert memory > 0.1


def test_without_a_gpu_one_line_says_so():
    result = check("--skip-tests", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    assert result.stderr == "error: no GPU is visible; pass --device cpu to measure the CPU\n"


def test_a_missing_config_is_named_once():
    result = check("--config-file", "configs/missing.yaml", "--skip-tests", "--device", "cpu")
    assert result.returncode == 1
    assert result.stderr.startswith("error: config file not found")
    assert result.stderr.count("\n") == 1
