import logging
import math
import re

import pytest
import safetensors.torch
import torch
from torch import nn

from ita.engine.checkpoint import read_checkpoint
from ita.engine.checkpointer import Checkpointer
from ita.errors import UserError
from ita.modeling.storage import nonfinite_names


class Model(nn.Module):
    """A frozen part, a trained one, and the interface that checkpoints rely on."""

    def __init__(self, width=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, width)

    def frozen_state_keys(self):
        return {"backbone.weight", "backbone.bias"}


class Counter:
    """Something with a state."""

    def __init__(self, count=0):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of ``Model()`` with a counter at 5."""
    Checkpointer(Model(), tmp_path, trainer=Counter(5)).save("model_0000004", iteration=4)
    return tmp_path / "model_0000004.pth"


def same(one, other):
    return all(torch.equal(one.state_dict()[k], other.state_dict()[k]) for k in one.state_dict())


def test_what_is_trained_comes_back_and_the_frozen_part_is_not_written(saved, caplog):
    content = torch.load(saved, weights_only=True)
    assert content.keys() == {"model", "trainer", "iteration"}
    assert content["model"].keys() == {"head.weight", "head.bias"}
    model, counter = Model(seed=1), Counter()
    caplog.set_level(logging.WARNING)
    rest = Checkpointer(model, saved.parent, trainer=counter).resume_or_load("", resume=True)
    assert rest == {"iteration": 4}
    assert counter.count == 5
    assert same(model.head, Model().head)
    assert same(model.backbone, Model(seed=1).backbone)
    assert not caplog.records


def test_weights_alone_leave_the_state_of_training(saved):
    model, counter = Model(seed=1), Counter(1)
    Checkpointer(model, "", trainer=counter).resume_or_load(str(saved), resume=False)
    assert same(model.head, Model().head)
    assert counter.count == 1


def test_nothing_to_resume(saved, tmp_path):
    model, counter = Model(seed=1), Counter(1)
    checkpointer = Checkpointer(model, tmp_path / "empty", trainer=counter)
    checkpointer.resume_or_load(str(saved), resume=True)
    assert same(model.head, Model().head)
    assert counter.count == 1


@pytest.mark.parametrize("form", ["model", "state_dict", "bare", "wrapped", "safetensors"])
def test_other_forms_of_a_full_checkpoint(form, tmp_path):
    weights = Model().state_dict()
    path = tmp_path / ("full.safetensors" if form == "safetensors" else "full.pth")
    if form == "safetensors":
        safetensors.torch.save_file(weights, path)
    elif form == "bare":
        torch.save(weights, path)
    elif form == "wrapped":
        torch.save({"model": {f"module.{k}": v for k, v in weights.items()}}, path)
    else:
        torch.save({form: weights, "epoch": 3}, path)
    model = Model(seed=1)
    Checkpointer(model).load(str(path))
    assert same(model, Model())


def test_missing_and_unexpected_tensors_are_named_in_a_line_each(tmp_path, caplog):
    extra = {f"extra.{i}": torch.ones(1) for i in range(9)}
    torch.save({"head.weight": torch.ones(3, 3), **extra}, tmp_path / "part.pth")
    Checkpointer(Model()).load(str(tmp_path / "part.pth"))
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 2
    assert "is missing 1 of the model's tensors" in lines[0]
    assert "head.bias" in lines[0]
    assert "has 9 tensors that are not in the model" in lines[1]
    assert lines[1].endswith("extra.5 and 3 more")


def test_weights_of_another_architecture_name_the_keys_to_set(make_ita, tmp_path, caplog):
    first = make_ita(num_dominant=3, self_attention=True)
    path = tmp_path / "first.pth"
    Checkpointer(first, tmp_path).save("first")
    keys = "a model with MODEL.ITA.NUM_DOMINANT 3, MODEL.ITA.SELF_ATTENTION True"
    with pytest.raises(UserError, match=f"shapes differ in .*; the file is from {keys}$"):
        Checkpointer(make_ita(num_dominant=0)).load(str(path))
    caplog.clear()
    Checkpointer(make_ita(num_dominant=3)).load(str(path))
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert lines[-1].startswith(f"{path} is from a model with MODEL.ITA.SELF_ATTENTION True;")
    caplog.clear()
    Checkpointer(make_ita(num_dominant=3, self_attention=True)).load(str(path))
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_other_shapes_are_listed_and_nothing_is_loaded(saved):
    model = Model(width=4, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        Checkpointer(model).load(str(saved))
    assert "head.bias (3 in the file, 4 in the model)" in str(caught.value)
    assert "head.weight (3x3 in the file, 4x3 in the model)" in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Code:
    def __reduce__(self):
        return print, ("this was run",)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello world"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "code": lambda path: torch.save({"model": {"head.weight": Code()}}, path),
    "list": lambda path: torch.save([torch.ones(2)], path),
    "nothing": lambda path: torch.save({"model": {}}, path),
    "other model": lambda path: torch.save({"model": {"conv1": torch.ones(2)}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("resume", [False, True])
def test_unusable_files(damage, resume, saved, capsys):
    DAMAGE[damage](saved)
    checkpointer = Checkpointer(Model(), saved.parent if resume else "")
    with pytest.raises(UserError, match=re.escape(str(saved))) as caught:
        checkpointer.resume_or_load("" if resume else str(saved), resume=resume)
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"hello world, this is no header")
    with pytest.raises(UserError, match=r"weights\.safetensors"):
        Checkpointer(Model()).load(str(path))


def test_weights_without_a_state_cannot_be_resumed(saved):
    torch.save({"model": Model().state_dict()}, saved)
    with pytest.raises(UserError, match="no training state"):
        Checkpointer(Model(), saved.parent, trainer=Counter()).resume_or_load("", resume=True)


def test_a_failed_save_leaves_the_last_checkpoint(saved, monkeypatch):
    def fill_the_disk(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    checkpointer = Checkpointer(Model(seed=1), saved.parent, trainer=Counter(9))
    for name in ("model_0000004", "model_0000009"):
        with pytest.raises(UserError, match=f"{name}.*No space left"):
            checkpointer.save(name, iteration=9)
    monkeypatch.undo()
    assert sorted(p.name for p in saved.parent.iterdir()) == ["last_checkpoint", saved.name]
    model, counter = Model(seed=2), Counter()
    Checkpointer(model, saved.parent, trainer=counter).resume_or_load("", resume=True)
    assert counter.count == 5
    assert same(model.head, Model().head)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_saved_over_good_ones(saved, value):
    model, before = Model(), saved.read_bytes()
    with torch.no_grad():
        model.head.weight[1, 2] = value
    checkpointer = Checkpointer(model, saved.parent, trainer=Counter(6))
    with pytest.raises(UserError, match=r"0004\.pth was not written: .* finite \(head\.weight\)"):
        checkpointer.save(saved.stem, iteration=4)
    assert saved.read_bytes() == before


def test_weights_that_are_not_finite_are_refused(saved):
    """The model stays as it was. Tensors that are not of the model do not matter."""
    content = torch.load(saved, weights_only=True)
    content["model"]["mask"] = torch.full((2, 2), -math.inf)
    torch.save(content, saved)
    Checkpointer(Model(), saved.parent, trainer=Counter()).load(str(saved))
    content["model"]["head.bias"][0] = math.nan
    torch.save(content, saved)
    model = Model(seed=1)
    with pytest.raises(UserError, match=f"^{saved} has weights .* diverged: head.bias; use an "):
        Checkpointer(model, saved.parent, trainer=Counter()).load(str(saved))
    assert same(model, Model(seed=1))


def test_a_worker_that_dies_during_a_save_is_no_fault_of_the_disk(saved, monkeypatch):
    def die(state, file):
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        Checkpointer(Model(), saved.parent, trainer=Counter()).save("next")
    assert sorted(p.name for p in saved.parent.iterdir()) == ["last_checkpoint", saved.name]


def test_a_file_without_checksums(saved):
    content = torch.load(saved, weights_only=True)
    enabled = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, saved)
    finally:
        torch.serialization.set_crc32_options(enabled)
    assert read_checkpoint(saved)["iteration"] == content["iteration"]


@pytest.mark.parametrize(
    ("dtype", "bad"), [(torch.float8_e5m2, float("inf")), (torch.float16, float("nan"))]
)
def test_small_types_that_are_not_finite(dtype, bad):
    tensors = {"fine": torch.ones(3).to(dtype), "bad": torch.tensor([1.0, bad]).to(dtype)}
    assert nonfinite_names(tensors) == ["bad"]
