"""The commands of docs/quickstart.md, in their order; its setup is taken as done."""

import json
import re
import subprocess
import sys

import pytest

from tests.pages import DOCS, blocks

PAGE = DOCS / "quickstart.md"
# Runs a script's lines, "export" and "ita", in one process, which imports the libraries once.
SHELL = """
import os, shlex, sys
from ita.cli import main
for line in sys.stdin.read().replace("\\\\\\n", "").splitlines():
    command, *words = shlex.split(line, comments=True)
    if command == "export":
        os.environ.update(word.split("=", 1) for word in words)
    elif command != "ita":
        sys.exit(f"neither export nor ita: {line}")
    elif (code := main(words)) != 0:
        sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which all commands ran."""
    folder = tmp_path_factory.mktemp("quickstart")
    setup, commands = "make setup && source .venv/bin/activate\n", "".join(blocks(PAGE, "bash"))
    assert commands.startswith(setup)
    done = subprocess.run(
        [sys.executable, "-c", SHELL],
        input=commands.removeprefix(setup),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def miou_of(run):
    content = json.loads((run / "results.json").read_text("utf-8"))
    return content["results"]["toy_test_all"]["sem_seg"]["mIoU"]


def test_the_page_names_what_its_commands_write(folder):
    text = PAGE.read_text("utf-8")
    for name in ("000001.png", "000001_overlay.png", "classes.json"):
        assert name in text
        assert (folder / "output" / "segmented" / name).is_file()
    for name in ("output/trained/report.html", "output/comparison.html"):
        assert name in text
        assert (folder / name).read_text("utf-8").startswith("<!DOCTYPE html>")


def test_the_short_training_is_as_far_as_the_page_says(folder):
    evaluated, trained = (miou_of(folder / "output" / run) for run in ("evaluated", "trained"))
    shown = float(re.search(r"all     86  ([\d.]+)", PAGE.read_text("utf-8"))[1])
    assert evaluated == pytest.approx(shown, abs=3)  # processors round differently
    assert 8 < trained < 25
