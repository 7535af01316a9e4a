"""Finding files of the package, and writing files that are complete or not there."""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from ita.errors import UserError
from ita.files import (
    PACKAGE,
    find_file,
    folder_written_whole,
    sha256_of,
    write_atomically,
    written_whole,
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working directory with nothing in it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("configs/toy/ita_tiny.yaml", PACKAGE / "configs" / "toy" / "ita_tiny.yaml"),
        ("ita/toy/datasets.yaml", PACKAGE / "toy" / "datasets.yaml"),
        ("ita/toy/clip", PACKAGE / "toy" / "clip"),
        (Path("configs"), PACKAGE / "configs"),
    ],
)
def test_files_of_the_package_are_found_from_any_working_directory(elsewhere, path, there):
    assert find_file(path).samefile(there)


def test_the_working_directory_comes_first(elsewhere):
    own = elsewhere / "configs" / "toy" / "ita_tiny.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_file("configs/toy/ita_tiny.yaml").samefile(own)
    # What it lacks is still found.
    other = "configs/toy/ita_tiny_long.yaml"
    assert find_file(other).samefile(PACKAGE / other)


def test_the_home_folder_is_known(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere))
    assert find_file("~/model.pth") == elsewhere / "model.pth"


@pytest.mark.parametrize(
    "path",
    ["configs/none.yaml", "ita/none/at/all", "toy/datasets.yaml", "none.txt", "/none/configs/toy"],
)
def test_other_paths_are_left_alone(elsewhere, path):
    assert find_file(path) == Path(path)


@pytest.fixture
def old(tmp_path) -> Path:
    """A file with content."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    return path


def left(path: Path) -> list[str]:
    """Names in the folder of a path."""
    return sorted(os.listdir(path.parent))


def write_half(path: Path, error: type[BaseException], *, durable: bool = True) -> None:
    """Write half of a file, and fail."""
    with written_whole(path, durable=durable) as partial:
        partial.write_bytes(b"half")
        raise error


def test_readers_see_the_old_content_until_the_new_is_complete(old):
    with written_whole(old) as partial:
        partial.write_bytes(b"half")
        assert old.read_bytes() == b"old"
        assert partial.parent == old.parent
        partial.write_bytes(b"new")
    assert old.read_bytes() == b"new"
    assert left(old) == ["result.json"]


def test_a_temporary_name_tells_the_process_and_differs_between_threads(old):
    def name(_: int) -> str:
        with written_whole(old) as partial:
            partial.write_bytes(b"new")
            both.wait(timeout=20)
            return partial.name

    both = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        names = set(pool.map(name, range(2)))
    assert len(names) == 2
    assert all(n.startswith(f".result.json.{os.getpid()}-") for n in names)
    assert all(n.endswith(".partial") for n in names)


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("durable", [True, False])
def test_an_error_leaves_the_old_content_and_nothing_else(old, error, durable):
    with pytest.raises(error):
        write_half(old, error, durable=durable)
    assert old.read_bytes() == b"old"
    assert left(old) == ["result.json"]


def test_an_error_leaves_no_new_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "new", ZeroDivisionError)
    assert os.listdir(tmp_path) == []


def test_written_at_once_with_its_folder(tmp_path, old):
    path = tmp_path / "a" / "b" / "result.json"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    write_atomically(str(old), b"new")
    assert old.read_bytes() == b"new"
    assert left(path) == ["result.json"]


@pytest.mark.parametrize("failing", ["write", "sync", "replace"])
def test_a_failing_disk_leaves_the_old_content(old, monkeypatch, failing):
    write = Path.write_bytes

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(path, data):
        write(path, data[: len(data) // 2])
        full()

    if failing == "write":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "fsync" if failing == "sync" else "replace", full)
    with pytest.raises(UserError) as error:
        write_atomically(old, b"new content")
    assert str(error.value) == f"cannot write {old}: No space left on device"
    assert old.read_bytes() == b"old"
    assert left(old) == ["result.json"]


def test_a_folder_that_cannot_be_made_is_named(old):
    path = old / "below" / "file"
    with pytest.raises(UserError, match=f"cannot write {path}: Not a directory"):
        write_atomically(path, b"new")
    assert old.read_bytes() == b"old"


def test_the_hash_of_a_file(tmp_path):
    """Read in pieces, the last of which may be empty."""
    for content in (b"", b"abc", bytes(range(256)) * (1 << 17)):
        (tmp_path / "file").write_bytes(content)
        assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match=r"cannot read .*missing: No such file"):
        sha256_of(tmp_path / "missing")


def test_a_folder_appears_with_its_last_file(tmp_path):
    with folder_written_whole(tmp_path / "new" / "folder") as partial:
        (partial / "first.txt").write_text("1")
        assert not (tmp_path / "new" / "folder").exists()
        (partial / "last.txt").write_text("2")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["folder"]
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "first.txt",
        "last.txt",
    ]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "disk full")]
)
def test_half_a_folder_is_removed(tmp_path, error):
    def write():
        with folder_written_whole(tmp_path / "folder") as partial:
            (partial / "first.txt").write_text("1")
            raise error

    with pytest.raises(UserError if isinstance(error, OSError) else error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_never_replaces_another(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UserError, match="exists"), folder_written_whole(path):
            pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_is_replaced_on_request(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("old")
    with folder_written_whole(folder, replace=True) as partial:
        (partial / "new").write_text("new")
        assert (folder / "old").exists()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("fails", ["writing", "moving"])
def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch, fails):
    folder, rename = tmp_path / "model", os.rename
    folder.mkdir()
    (folder / "old").write_text("old")

    def fail_to_move(source, target):
        if target == folder and fails == "moving" and list(source.glob("new")):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    def write():
        with folder_written_whole(folder, replace=True) as partial:
            (partial / "new").write_text("new")
            if fails == "writing":
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", fail_to_move)
    with pytest.raises(UserError, match="cannot write"):
        write()
    assert (folder / "old").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
