"""``ita convert`` as people run it."""

import pytest
import torch

from ita.cli import main
from ita.cli.convert import KEPT, TARGETS
from ita.engine.checkpoint import read_checkpoint
from ita.engine.checkpointer import Checkpointer
from ita.modeling.conversion import EMPTY_WEIGHT, KINDS


@pytest.fixture
def checkpoint(make_ita, tmp_path):
    """A run's checkpoint, with state of training, and its weights."""
    model = make_ita()
    folder = tmp_path / "run"
    Checkpointer(model, str(folder)).save("model_final", iteration=7)
    return folder / "model_final.pth"


@pytest.fixture
def convert(capsys):
    """Converts a file; gives exit code, printed lines and errors."""

    def convert(*words):
        code = main(["convert", *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return convert


def identical(one, other):
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


def test_the_targets_are_those_of_the_conversion():
    assert TARGETS == KINDS
    assert EMPTY_WEIGHT in KEPT


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(suffix, checkpoint, convert, tmp_path):
    theirs, ours = tmp_path / f"theirs{suffix}", tmp_path / f"ours{suffix}"
    before = read_checkpoint(checkpoint)
    code, lines, errors = convert(checkpoint, theirs, "--to", "ita-first-release")
    assert (code, errors) == (0, "")
    count = len(before["model"])
    assert len([line for line in lines if line.startswith("mapped   ")]) == count
    shape = "x".join(map(str, reversed(before["model"]["dominant.projection.weight"].shape)))
    projection = "dominant.projection.weight -> backbone.add_tgt_em.weight"
    assert f"mapped   {projection}, {shape} (transposed)" in lines
    missing = [line for line in lines if line.startswith("missing  ")]
    assert [line.split()[1] for line in missing] == [
        "backbone.clip_model.*:",
        "criterion.empty_weight:",
    ]
    assert lines[-2] == "left out iteration: no tensors of the model"
    summary = f"ita to ita-first-release, {count} mapped, 0 dropped, 0 kept, 2 missing"
    assert lines[-1] == f"{theirs}: {summary}"
    code, lines, errors = convert(theirs, ours)
    assert (code, errors) == (0, "")
    assert (
        lines[-1]
        == f"{ours}: ita-first-release to ita, {count} mapped, 0 dropped, 0 kept, 0 missing"
    )
    after = read_checkpoint(ours)
    assert identical(after["model"], before["model"])
    assert after["train_classes"] == before["train_classes"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_class_weights_of_the_loss_come_back(suffix, checkpoint, convert, tmp_path):
    theirs, ours, again = (tmp_path / f"{name}{suffix}" for name in ("theirs", "ours", "again"))
    convert(checkpoint, theirs, "--to", "ita-first-release")
    weights = read_checkpoint(theirs)["model"]
    weights |= {EMPTY_WEIGHT: torch.tensor([1.0, 1.0, 0.1])}
    wrapped = {f"module.{name}": tensor.half() for name, tensor in weights.items()}
    wrapped[f"module.{EMPTY_WEIGHT}"] = weights[EMPTY_WEIGHT]
    torch.save({"model": wrapped}, tmp_path / "half.pth")
    code, lines, errors = convert(tmp_path / "half.pth", ours)
    assert (code, errors) == (0, "")
    assert f"kept     {EMPTY_WEIGHT}: " in "\n".join(lines)
    assert ", 0 dropped, 1 kept, 0 missing" in lines[-1]
    code, lines, errors = convert(ours, again, "--to", "ita-first-release")
    assert (code, errors) == (0, "")
    assert lines[-1].endswith(", 0 dropped, 0 kept, 1 missing")
    expected = {name.removeprefix("module."): tensor for name, tensor in wrapped.items()}
    assert identical(read_checkpoint(again)["model"], expected)


def test_a_converted_file_loads(checkpoint, convert, make_ita, tmp_path, caplog):
    convert(checkpoint, tmp_path / "theirs.pth", "--to", "ita-first-release")
    convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    expected = make_ita().state_dict()
    for name in ("theirs.pth", "ours.safetensors"):
        model = make_ita(seed=1)
        Checkpointer(model).load(str(tmp_path / name))
        assert identical(model.state_dict(), expected)
    assert not caplog.records


def test_lost_parameters_are_a_warning(make_ita, convert, tmp_path):
    Checkpointer(make_ita(self_attention=True), str(tmp_path)).save("ita")
    code, lines, errors = convert(tmp_path / "ita.pth", tmp_path / "out.pth", "--to", "fcclip")
    assert code == 0
    assert errors == "warning: 1 tensor was not converted: see dropped\n"
    dropped = [line for line in lines if line.startswith("dropped")]
    assert dropped[0].startswith("dropped  dominant.projection.weight: ")
    assert len(dropped) == 1
    content = read_checkpoint(tmp_path / "ita.pth")
    content["model"]["pixel_mean"] = torch.ones(3)
    torch.save(content, tmp_path / "more.pth")
    errors = convert(tmp_path / "more.pth", tmp_path / "more_out.pth", "--to", "fcclip")[2]
    assert errors == "warning: 2 tensors were not converted: see dropped\n"


@pytest.mark.parametrize("stored", ["1.0", None, [1.0, "a"], [[1.0], 2.0], {"a": 1}, [10**400]])
def test_stored_class_weights_that_are_no_numbers(stored, checkpoint, convert, tmp_path):
    content = read_checkpoint(checkpoint)
    torch.save({**content, EMPTY_WEIGHT: stored}, tmp_path / "odd.pth")
    code, lines, errors = convert(
        tmp_path / "odd.pth", tmp_path / "out.pth", "--to", "ita-first-release"
    )
    assert (code, lines) == (1, [])
    said = f"{EMPTY_WEIGHT} in checkpoint {tmp_path / 'odd.pth'} is not a list of numbers"
    assert errors == f"error: {said}\n"
    assert not (tmp_path / "out.pth").exists()


def test_mistakes_are_one_line(checkpoint, convert, tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "there.pth").write_bytes(b"mine")
    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "other.pth")
    new = tmp_path / "new.pth"
    for words, message in (
        ((tmp_path / "absent.pth", new), "absent.pth does not exist"),
        ((tmp_path / "text.pth", new), "cannot read checkpoint"),
        ((tmp_path / "other.pth", new), "no tensor has a name of ITA"),
        ((checkpoint, tmp_path / "new.bin"), "must end in .pth or .safetensors"),
        ((checkpoint, tmp_path / "there.pth"), "exists; remove it or choose another name"),
        ((checkpoint, checkpoint), "exists; remove it or choose another name"),
        ((checkpoint, new, "--to", "fcclip"), "FC-CLIP's decoder needs self-attention"),
        ((checkpoint, tmp_path / "there.pth" / "new.pth"), "cannot write"),
    ):
        code, lines, errors = convert(*words)
        assert (code, lines) == (1, [])
        assert errors.startswith("error: ")
        assert message in errors
        assert errors.count("\n") == 1
    assert not new.exists()
    assert (tmp_path / "there.pth").read_bytes() == b"mine"
