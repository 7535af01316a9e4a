"""Checkpoints that are kept, and the one to resume from."""

import pytest
import torch

from ita.engine.recovery import Retention, find_resumable
from ita.errors import UserError


def make(folder, *finished):
    """Checkpoints after so many iterations."""
    for number in finished:
        name = f"model_{number - 1:07d}.pth"
        content = {"model": {"weight": torch.ones(3)}, "trainer": {}, "iteration": number - 1}
        torch.save(content, folder / name)
        (folder / "last_checkpoint").write_text(name)


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(), [10, 20, 30, 40, 50]),
        (Retention(last=2), [40, 50]),
        (Retention(last=1, every=20), [20, 40, 50]),
        (Retention(last=9), [10, 20, 30, 40, 50]),
        (Retention(every=20), [10, 20, 30, 40, 50]),
    ],
)
def test_retention(retention, kept, tmp_path):
    make(tmp_path, 10, 20, 30, 40, 50)
    others = {"model_best.pth", "model_final.pth", "model_7.pth", "last_checkpoint"}
    for name in others:
        (tmp_path / name).touch()
    retention.apply(tmp_path / "model_0000049.pth")
    left = {f"model_{number - 1:07d}.pth" for number in kept}
    assert {path.name for path in tmp_path.iterdir()} == left | others


def test_checkpoints_of_a_later_part_stay(tmp_path):
    """The run was resumed from before them."""
    make(tmp_path, 10, 20, 30, 90, 100)
    Retention(last=2).apply(tmp_path / "model_0000029.pth")
    finished = sorted(int(path.stem.removeprefix("model_")) + 1 for path in tmp_path.glob("*.pth"))
    assert finished == [20, 30, 90, 100]


def test_the_named_checkpoint_is_resumed_from_even_if_it_is_not_the_newest(tmp_path):
    make(tmp_path, 10, 20)
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert find_resumable(tmp_path) == tmp_path / "model_0000009.pth"


def test_the_newest_is_the_one_with_the_most_iterations(tmp_path):
    """The final checkpoint of a run that was then made longer is an older one."""
    make(tmp_path, 10, 20, 30)
    (tmp_path / "model_0000019.pth").rename(tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").unlink()
    assert find_resumable(tmp_path) == tmp_path / "model_0000029.pth"
    (tmp_path / "model_0000029.pth").write_bytes(b"PK")
    assert find_resumable(tmp_path) == tmp_path / "model_final.pth"


def test_no_intact_checkpoint_is_an_error_with_what_is_wrong(tmp_path):
    make(tmp_path, *range(1, 8))
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"PK")
    with pytest.raises(UserError) as caught:
        find_resumable(tmp_path)
    message = str(caught.value)
    assert "cannot read checkpoint" in message
    assert "and 4 more; to train anew" in message
    assert "\n" not in message


def test_a_folder_without_checkpoints(tmp_path):
    assert find_resumable(tmp_path) is None
    (tmp_path / "model_best.pth").touch()
    (tmp_path / "log.txt").touch()
    assert find_resumable(tmp_path) is None
    assert find_resumable(tmp_path / "missing") is None
