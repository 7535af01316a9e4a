"""What the command ``ita`` says besides its subcommands' own output."""

import subprocess
import sys

import pytest

from ita.cli import main


def test_without_a_subcommand_it_shows_its_help(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: ita ")


@pytest.mark.parametrize("words", [["tarin"], ["datasets", "prepare", "cocoa"], ["toy"]])
def test_a_wrong_command_line(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ita ")


def test_an_interrupt_says_so(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ita.toy.dataset.make_toy_dataset", interrupt)
    assert main(["toy", "make", "anywhere"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_version(capsys):
    assert main(["--version"]) == 0
    versions = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(versions)[:2] == ["ita", "python"]
    assert {"torch", "detectron2", "open_clip_torch"} < versions.keys()
    assert versions["ita"].count(".") == 2


WITHOUT_DETECTRON2 = """
import sys
sys.modules["detectron2"] = None  # an import of it raises ModuleNotFoundError
from ita.cli import main
sys.exit(main(["datasets", "check"]))
"""


def test_without_detectron2_it_says_how_to_install_it():
    command = [sys.executable, "-c", WITHOUT_DETECTRON2]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    told = "error: detectron2 is not installed; install it with: ita install-detectron2\n"
    assert done.stderr == told
