"""``--help`` of every subcommand: at once, and with what one needs to know."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ita.cli import SUBCOMMANDS, main
from ita.cli.datasets import PREPARED
from ita.cli.version import DRIVERS

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "",
    "segment",
    "web",
    "train",
    "evaluate",
    "reproduce",
    "export",
    "compare",
    "convert",
    "datasets",
    "datasets check",
    "datasets prepare",
    *(f"datasets prepare {name}" for name in PREPARED),
    "toy",
    "toy demo",
    "toy make",
    "toy train-clip",
    "toy train-model",
    "install-detectron2",
]
# Data set -> what is read, what is written.
FILES = {
    "ade20k": (
        ["ADEChallengeData2016/", "annotations_instance"],
        ["annotations_detectron2/", "ade20k_panoptic_{train,val}", "ade20k_instance_{train,val}"],
    ),
    "ade20k-full": (
        ["ADE20K_2021_17_01/images/ADE/", "index_ade20k.pkl"],
        ["images_detectron2/", "annotations_detectron2/"],
    ),
    "cityscapes": (
        ["cityscapes/leftImg8bit/", "{labelIds,instanceIds}.png"],
        ["labelTrainIds.png", "cityscapes_panoptic_{train,val}", "cityscapes_instance_"],
    ),
    "coco-semantic": (
        ["coco/annotations/panoptic_{train,val}2017.json", "coco/panoptic_{train,val}2017/"],
        ["coco/panoptic_semseg_{train,val}2017/"],
    ),
    "mapillary": (["mapillary_vistas/", "v1.2/"], ["links to v1.2/", "labels/*.png"]),
    "pascal-context": (
        ["VOCdevkit/VOC2010/", "trainval_merged.json"],
        ["pascal_ctx_d2/images/", "annotations_ctx59/", "annotations_ctx459/"],
    ),
    "pascal-voc": (
        ["VOCdevkit/VOC2012/", "SegmentationClass"],
        ["pascal_voc_d2/images/", "annotations_pascal21/", "annotations_pascal20/"],
    ),
}
# Script -> what of ``ita`` it is.
SCRIPTS = {
    "train_net.py": "train",
    "tools/check_datasets.py": "datasets check",
    "tools/demo.py": "toy demo",
    "tools/install_detectron2.py": "install-detectron2",
    "tools/make_toy_dataset.py": "toy make",
    "tools/train_toy_clip.py": "toy train-clip",
    "tools/train_toy_model.py": "toy train-model",
    **{
        f"datasets/prepare_{name.replace('-', '_')}.py": f"datasets prepare {name}"
        for name in PREPARED
    },
}


@pytest.fixture
def help_of(capsys, monkeypatch):
    """The help of a command, printed by this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(command: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*command.split(), "--help"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    return run


HEAVY = {"torch", "detectron2", "timm", "open_clip"}


def run_with_import_times(*words: str) -> tuple[str, set[str]]:
    """Run Python; its output and the names of all modules that it imported."""
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    return done.stdout, {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_answers_without_torch(command):
    """Importing that takes seconds."""
    printed, imported = run_with_import_times("-m", "ita", *command.split(), "--help")
    assert printed.startswith(f"usage: ita {command}".rstrip())
    assert "ita.cli" in imported
    assert imported.isdisjoint(HEAVY)


def test_versions_are_found_without_torch():
    """Unless there is a driver to ask for GPUs."""
    if any(path.exists() for path in DRIVERS):
        pytest.skip("torch is asked for the GPUs of this machine")
    printed, imported = run_with_import_times("-m", "ita", "--version")
    assert printed.startswith("ita ")
    assert imported.isdisjoint(HEAVY)


def test_the_comparison_answers_without_torch():
    script = str(ROOT / "tools" / "toy_comparison.py")
    printed, imported = run_with_import_times(script, "--help")
    assert printed.startswith("usage: toy_comparison.py")
    assert imported.isdisjoint(HEAVY)


def test_every_subcommand_is_listed(help_of):
    assert {command.split()[0] for command in COMMANDS[1:]} == set(SUBCOMMANDS)
    text = help_of("")
    for name, summary in SUBCOMMANDS.items():
        assert f"\n    {name}" in text
        assert " ".join(summary.split()[:4]) in " ".join(text.split())


@pytest.mark.parametrize("command", ["datasets", "datasets prepare", "toy"])
def test_what_can_follow_is_listed(help_of, command):
    text = help_of(command)
    depth = len(command.split())
    following = {
        words[depth]
        for words in map(str.split, COMMANDS)
        if words[:depth] == command.split() and len(words) > depth
    }
    for name in following:
        assert f"\n    {name}" in text


@pytest.mark.parametrize("name", PREPARED)
def test_preparing_says_what_is_read_and_written(help_of, name):
    text = help_of(f"datasets prepare {name}")
    before, _, after = text.partition("\nwrites ")
    _, _, read = before.partition("\nreads ")
    written, _, _ = after.partition("\noptions:")
    for path in FILES[name][0]:
        assert path in read
    for path in FILES[name][1]:
        assert path in written
    for option in ("--root", "--split", "--workers", "--dry-run"):
        assert option in text


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("toy ")])
def test_paragraphs_stand_at_the_left(help_of, command):
    arguments = r"\n\n(positional arguments|options):"
    description = re.split(arguments, help_of(command).partition("\n\n")[2])[0]
    assert description.count("\n") > 1
    assert not [line for line in description.splitlines() if line.startswith(" ")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_subcommands(help_of, script, tmp_path):
    """From any working directory."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == help_of(SCRIPTS[script])


def test_every_script_is_a_subcommand_or_a_tool_of_developers():
    scripts = {
        str(path.relative_to(ROOT))
        for folder in (".", "tools", "datasets")
        for path in (ROOT / folder).glob("*.py")
    }
    developers = (
        "benchmark",
        "gpu_check",
        "hit_rate",
        "input_pipeline",
        "make_config_reference",
        "run_tutorial",
        "soak",
        "toy_comparison",
    )
    assert scripts == {*SCRIPTS, *(f"tools/{name}.py" for name in developers)}
