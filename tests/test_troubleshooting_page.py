"""The messages of docs/troubleshooting.md are those of the program."""

import ast
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import ita
from ita.cli import main
from ita.config import load_config
from ita.data.registration import class_list_for, register_semantic
from ita.engine.training_parts import scale_to_world
from ita.errors import UserError
from ita.evaluation.truth import GroundTruth

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
COCO = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
TOY = "configs/toy/ita_tiny.yaml"


def headings():
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^### `(?:error: )?(.*?)`", text, flags=re.MULTILINE)


def run(*words):
    """Run a command in this process; what it prints last is its error."""
    with suppress(SystemExit):
        main(words)


def label_outside_the_list(folder):
    (folder / "classes.txt").write_text("1: crop\n2: weed\n3: soil\n")
    for name, values in (("images", np.zeros((4, 4, 3))), ("labels", np.full((4, 4), 7))):
        (folder / name).mkdir()
        Image.fromarray(values.astype(np.uint8)).save(folder / name / "a.png")
    register_semantic("field", folder / "images", folder / "labels", folder / "classes.txt")
    try:
        metadata, (record,) = MetadataCatalog.get("field"), DatasetCatalog.get("field")
        GroundTruth(metadata, metadata.class_list).classes(record)
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.remove("field")


# Beginning of a message -> what provokes it, given an empty folder.
PROVOKED = {
    "no GPU is visible": lambda folder: run("train", "--config-file", COCO),
    "… sets no weights": lambda folder: ita.load(COCO),
    "… does not fit": lambda folder: ita.load(
        TOY, "ita/toy/model/model.safetensors", overrides=["MODEL.MASK_FORMER.HIDDEN_DIM", "128"]
    ),
    "data set … not found": lambda folder: DatasetCatalog.get("toy_val"),
    "…: label 7": label_outside_the_list,
    "… lists 150 classes": lambda folder: class_list_for("toy_val", "ade150"),
    "SOLVER.IMS_PER_BATCH (16)": lambda folder: scale_to_world(load_config(COCO), 3),
    "--resume must": lambda folder: run(
        "train", "--config-file", TOY, "SOLVER.MAX_ITER", "2400", "--resume"
    ),
    "unknown config key": lambda folder: load_config(TOY, ["SOLVER.BASE_RL", "1"]),
    "segments are panoptic": lambda folder: ita.load().segment(
        np.zeros((8, 8, 3), np.uint8), ["grass"], panoptic=True, instances=True
    ),
}


@pytest.mark.parametrize("beginning", PROVOKED)
def test_messages_are_those_that_users_get(beginning, tmp_path, monkeypatch, capsys):
    (heading,) = [h for h in headings() if h.startswith(beginning)]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    try:
        PROVOKED[beginning](tmp_path)
        message = capsys.readouterr().err.splitlines()[-1]
    except UserError as error:
        message = f"error: {error}"
    parts = [re.escape(part) for part in heading.split("…")]
    assert re.match(".*".join(["error: " + parts[0], *parts[1:]]), message), message


def test_other_messages_of_ita_are_in_its_source():
    """With … for each value."""
    sources = [p.read_text("utf-8") for p in (ROOT / "ita").rglob("*.py")]
    texts = "\n".join(text for source in sources for text in literals(ast.parse(source)))
    others = re.findall(r"^### `error: (.*?)`", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    others += [heading for heading in headings() if heading.startswith(("CLIP …", "… processes"))]
    checked = [h for h in others if not h.startswith(tuple(PROVOKED))]
    assert len(checked) >= 8
    for heading in checked:
        for part in re.split(r"…|\b\d+\b|detectron2", heading):
            assert part in texts, heading


def literals(tree):
    """Strings of a module, with … for the values of f-strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub("%[sd]", "…", node.value)
        elif isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)


def test_old_messages_of_libraries_still_come_from_what_is_absent():
    with pytest.raises(AttributeError, match=r"module 'PIL.Image' has no attribute 'LINEAR'"):
        Image.LINEAR  # noqa: B018
    from open_clip.transform import PreprocessCfg
    from timm.layers import GELU

    assert PreprocessCfg
    assert GELU


def test_commands_exist():
    """Subcommands and options, up to what a reader has to fill in."""
    commands = re.findall(r"^ita (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        shown = re.split(r" …| [A-Z_]+[.A-Z_]+ | *#", command)[0]
        with pytest.raises(SystemExit) as stop:
            main([*shown.split(), "--help"])
        assert stop.value.code == 0, command
