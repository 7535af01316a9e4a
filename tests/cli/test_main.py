"""What the command ``ita`` says besides its subcommands' own output."""

import importlib.util
import io
import subprocess
import sys

import pytest
import torch

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


def torch_line(capsys):
    assert main(["--version"]) == 0
    return next(x for x in capsys.readouterr().out.splitlines() if x.startswith("torch "))


def test_version_names_cuda_and_the_gpus(capsys, monkeypatch, tmp_path):
    if torch.version.cuda is None:
        pytest.skip("this PyTorch is for CPUs only")
    monkeypatch.setattr("ita.cli.version.DRIVERS", (tmp_path / "no driver",))
    assert torch_line(capsys).endswith(f" (CUDA {torch.version.cuda}; GPUs: none)")
    monkeypatch.setattr("ita.cli.version.DRIVERS", (tmp_path,))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_line(capsys).endswith("; GPUs: none that this PyTorch can use)")
    names = ["NVIDIA H100 80GB HBM3", "NVIDIA RTX A6000", "NVIDIA H100 80GB HBM3"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(names))
    monkeypatch.setattr("torch.cuda.get_device_name", names.__getitem__)
    assert torch_line(capsys).endswith("; GPUs: 2 × NVIDIA H100 80GB HBM3, NVIDIA RTX A6000)")


@pytest.mark.parametrize(
    ("constants", "expected"),
    [
        ("cuda = None\nhip = None\n", " (CPU only)"),
        ("cuda = None\nhip = '6.4'\n", " (ROCm 6.4; GPUs: none)"),
    ],
)
def test_version_of_other_builds_of_torch(constants, expected, capsys, monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(constants)
    spec = importlib.util.spec_from_file_location("torch", tmp_path / "torch" / "__init__.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr("ita.cli.version.DRIVERS", ())
    assert torch_line(capsys).endswith(expected)


def test_version_without_torch(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "(" not in torch_line(capsys)


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


def test_a_terminal_without_the_characters_gets_escapes(monkeypatch):
    """Such as PYTHONIOENCODING=ascii, under which Python itself stops with an error."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding="ascii", errors="strict"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["compare", "/no/such → run"]) == 1
    sys.stderr.flush()
    assert written.getvalue().startswith(rb"error: cannot read /no/such \u2192 run: ")
