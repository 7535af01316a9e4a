"""The soak: measurements, what it says of them, and the whole of it for seconds."""

import contextlib
import json
import os
import subprocess
import sys
import time
from xml.etree import ElementTree

import psutil
import pytest
import soak

from tests.engine.tiny import REPOSITORY


def samples(memory):
    return [
        soak.Sample(minute=number, memory=value, files=10, threads=2, processes=1)
        for number, value in enumerate(memory)
    ]


def test_what_has_changed_is_between_the_second_and_the_last_quarter():
    steps = [soak.Step(minute, 0.25) for minute in range(8)]
    text = soak.describe(samples([1, 1, 100, 100, 140, 140, 150, 150]), steps)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["memory", "100", "->", "150", "MB", "+50.0%"]
    assert lines[-1] == ["step", "0.25", "->", "0.25", "s", "+0.0%"]


def test_steps_are_spread_over_the_time(tmp_path):
    lines = [{"iteration": 0, "lr": 1.0}] + [
        {"iteration": number, "time": 0.1 * number} for number in (10, 20)
    ]
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert soak.read_steps(path, 60) == [soak.Step(30, 1.0), soak.Step(60, 2.0)]


def test_a_process_is_measured_with_those_below_it(tmp_path):
    process = psutil.Process()
    before = soak.measure(process, time.monotonic())
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child,
        contextlib.ExitStack() as files,
    ):
        for _ in range(5):
            files.enter_context(open(os.devnull))
        after = soak.measure(process, time.monotonic())
        child.communicate(b"\n")
    assert after.processes == before.processes + 1
    assert after.files >= before.files + 5 + 3
    assert after.memory > before.memory


def test_the_figure_has_an_axis_for_each_measurement(tmp_path):
    path = tmp_path / "soak.svg"
    soak.draw(samples([1.0, 2.0]), [soak.Step(0.5, 0.2)], path)
    texts = {element.text for element in ElementTree.parse(path).iter() if element.text}
    assert {"memory [GB]", "open files", "step [s]", "minutes"} <= texts


@pytest.mark.slow
def test_a_training_is_watched_and_stopped(tmp_path):
    done = subprocess.run(
        [sys.executable, "tools/soak.py", "--minutes", "0.8", "--output", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "memory",
        "open",
        "threads",
        "step",
    ]
    assert (tmp_path / "soak.svg").exists()
    assert (tmp_path / "run" / "last_checkpoint").exists()
