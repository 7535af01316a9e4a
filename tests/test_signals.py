"""Signals that a process notes; the stopping of trainings is in tests/engine/test_stopping.py."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time
from ita.signals import noted_signals
with noted_signals() as signals:
    for pause in map(float, sys.argv[1:]):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
    print(signals.name)
"""


@pytest.mark.parametrize(
    ("pauses", "code", "output"),
    [
        (["0"], 0, "SIGTERM\n"),
        (["0", "0"], 0, "SIGTERM\n"),  # of a terminal and a launcher
        (["1.2", "0"], 128 + signal.SIGTERM, ""),
    ],
)
def test_the_second_signal_ends_the_process(pauses, code, output):
    command = [sys.executable, "-c", SCRIPT, *pauses]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, output)


WORKERS = """
import os, signal, subprocess
from ita.signals import ended_workers_ignored

def tell(number, frame):
    raise RuntimeError("a worker is gone")  # as PyTorch does

signal.signal(signal.SIGCHLD, tell)
with ended_workers_ignored():
    os.kill(os.getpid(), signal.SIGCHLD)
    subprocess.run(["true"])
try:
    os.kill(os.getpid(), signal.SIGCHLD)
except RuntimeError as error:
    print(error)
"""


def test_ended_workers_are_ignored_while_an_error_is_handled():
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a worker is gone\n", "")
