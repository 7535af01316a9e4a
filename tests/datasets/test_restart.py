"""Runs that stop half-way, and runs that only look."""

import errno
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets import layouts
from tests.datasets.conftest import files, start
from tests.datasets.layouts import BUILDERS

COUNT = 500


def test_killed_run_leaves_no_half_files_and_is_gone_on_with(tmp_path, prepare):
    truth = layouts.pascal_voc(tmp_path, count=COUNT)
    process = start("pascal_voc", "--root", str(tmp_path), "--split", "val", "--workers", "2")
    labels = tmp_path / "pascal_voc_d2" / "annotations_pascal20" / "validation"
    while not labels.is_dir() or len(os.listdir(labels)) < 20:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    # Not communicate(), which waits for all that may write to the pipes.
    process.wait()
    process.stdout.close()
    process.stderr.close()
    try:
        _wait_for_end(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    finished = {p: t for p, t in files(tmp_path / "pascal_voc_d2").items() if "partial" not in p}
    assert 20 <= len(finished) < 3 * COUNT
    _compare(tmp_path, {p: t for p, t in truth.items() if p[14:] in finished})

    # What worse ends leave: a file that was being written, and one that lost its content.
    half = labels / ".2007_000033.png.99999999-140002.partial"
    half.write_bytes(b"\x89PNG")
    lost = labels / "2007_000040.png"
    lost.write_bytes(b"")
    code, lines, errors = prepare("pascal_voc", tmp_path, "--split", "val", workers=2)
    assert (code, errors) == (0, [])
    after = files(tmp_path / "pascal_voc_d2")
    assert len(after) == 3 * COUNT
    assert not any("partial" in path for path in after)
    finished.pop("annotations_pascal20/validation/2007_000040.png", None)
    assert {path: after[path] for path in finished} == finished
    _compare(tmp_path, {p: t for p, t in truth.items() if "validation" in p})
    there = sum(path.startswith("annotations_pascal20") for path in finished)
    assert f"{labels}: wrote {COUNT - there} files, {there} were finished" in lines


def _compare(root: Path, truth: layouts.Truth) -> None:
    assert truth
    for path, label in truth.items():
        np.testing.assert_array_equal(np.asarray(Image.open(root / path)), label, err_msg=path)


def _wait_for_end(group: int) -> None:
    """Wait until no process of the killed one's is left."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("processes cannot be looked at here")
    end = time.monotonic() + 20
    while _running(group):
        assert time.monotonic() < end, "worker processes outlive their parent"
        time.sleep(0.05)


def _running(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            return True
    return False


@pytest.mark.parametrize("name", BUILDERS)
def test_dry_run_writes_nothing(tmp_path, prepare, name):
    truth = BUILDERS[name](tmp_path)
    before = files(tmp_path)
    folders = {path for path, _, _ in os.walk(tmp_path)}
    code, lines, errors = prepare(name, tmp_path, "--dry-run")
    assert (code, errors) == (0, [])
    assert files(tmp_path) == before
    assert {path for path, _, _ in os.walk(tmp_path)} == folders
    for folder in {os.path.dirname(path) for path in truth}:
        count = sum(os.path.dirname(path) == folder for path in truth)
        line = f"{tmp_path / folder}: would write {count} files, 0 were finished"
        assert line in lines


def test_full_disk(tmp_path, prepare, monkeypatch):
    layouts.pascal_voc(tmp_path)
    write, seen = Path.write_bytes, []

    def full(path, content):
        if "2007_000034" in path.name:
            write(path, content[: len(content) // 2])
            seen.extend(path.parent.iterdir())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    code, lines, errors = prepare("pascal_voc", tmp_path, "--split", "val")
    path = tmp_path / "pascal_voc_d2/annotations_pascal21/validation/2007_000034.png"
    assert (code, lines) == (1, [])
    assert errors == [
        f"error: cannot write {path}: No space left on device; free disk space, then run the same "
        "command again: finished files are kept"
    ]
    # A run that is killed while it writes leaves the file under another name.
    assert [half.suffix for half in seen if "2007_000034" in half.name] == [".partial"]
    made = files(tmp_path / "pascal_voc_d2")
    assert "annotations_pascal21/validation/2007_000033.png" in made
    assert not any("2007_000034.png" in name for name in made)

    monkeypatch.undo()
    code, lines, _ = prepare("pascal_voc", tmp_path, "--split", "val")
    assert code == 0
    assert f"{path.parent}: wrote 1 files, 1 were finished" in lines


def test_stopped_by_the_person_at_the_keyboard(tmp_path, prepare, monkeypatch):
    layouts.pascal_voc(tmp_path)
    write = Path.write_bytes

    def stop(path, content):
        if "2007_000034" in path.name:
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", stop)
    code, lines, errors = prepare("pascal_voc", tmp_path, "--split", "val")
    assert (code, lines) == (130, [])
    assert errors == ["stopped; run the same command again to continue: finished files are kept"]
    made = files(tmp_path / "pascal_voc_d2")
    assert "annotations_pascal21/validation/2007_000033.png" in made
    assert not any("2007_000034.png" in name for name in made)


def test_json_of_other_images_is_made_again(tmp_path, prepare):
    layouts.ade20k(tmp_path)
    ade = tmp_path / "ADEChallengeData2016"
    assert prepare("ade20k", tmp_path)[0] == 0
    complete = (ade / "ade20k_panoptic_val.json").read_bytes()
    before = files(tmp_path)
    (ade / "ade20k_panoptic_val.json").write_bytes(complete[:100])
    code, lines, _ = prepare("ade20k", tmp_path)
    assert code == 0
    assert (ade / "ade20k_panoptic_val.json").read_bytes() == complete
    assert f"{ade}/ade20k_panoptic_val.json: wrote" in lines
    after = files(tmp_path)
    assert {p for p in after if after[p] != before[p]} == {
        "ADEChallengeData2016/ade20k_panoptic_val.json"
    }

    for folder in ("images", "annotations", "annotations_instance"):
        for path in (ade / folder / "validation").glob("*00000002.*"):
            path.unlink()
    code, lines, _ = prepare("ade20k", tmp_path)
    assert code == 0
    assert b"ADE_val_00000002" not in (ade / "ade20k_panoptic_val.json").read_bytes()
    strange = "has 1 files that are not from the raw data, such as ADE_val_00000002.png"
    assert any(strange in line for line in lines)


def test_another_run_s_half_file_is_left_alone(tmp_path, prepare):
    layouts.pascal_voc(tmp_path)
    folder = tmp_path / "pascal_voc_d2" / "annotations_pascal20" / "validation"
    folder.mkdir(parents=True)
    # The process that started this one is surely running.
    theirs = folder / f".2007_000033.png.{os.getppid()}-140002.partial"
    theirs.write_bytes(b"half")
    assert prepare("pascal_voc", tmp_path)[0] == 0
    assert theirs.exists()


def test_links_that_cannot_be_made_become_copies(tmp_path, prepare, monkeypatch):
    layouts.pascal_voc(tmp_path)

    def refuse(path, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert prepare("pascal_voc", tmp_path)[0] == 0
    image = tmp_path / "pascal_voc_d2" / "images" / "training" / "2007_000032.jpg"
    raw = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / image.name
    assert not image.is_symlink()
    assert image.read_bytes() == raw.read_bytes()
