"""The folder of a run: claims of jobs on this machine and on others."""

import json
import os
import subprocess
import sys
import threading

import pytest

from ita.engine import run_folder
from ita.engine.run_folder import RunFolder, evaluation_folder
from ita.errors import UserError

ELSEWHERE = {"host": "elsewhere", "process": 4711, "started": "2026-01-01 00:00:00"}


def claim(folder):
    """Claim in a process of its own; return its exit code and the end of its errors."""
    code = f"from ita.engine.run_folder import *\nwith RunFolder(Path({str(folder)!r})): pass"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return ended.returncode, ended.stderr.strip().rpartition("\n")[2]


def test_a_claim_ends_with_its_block(tmp_path):
    with RunFolder(tmp_path):
        code, error = claim(tmp_path)
        assert code == 1
        assert f"{tmp_path} is in use by process {os.getpid()} on " in error
    assert claim(tmp_path) == (0, "")


def test_a_new_folder_is_made_when_it_is_opened(tmp_path):
    with RunFolder(tmp_path / "new") as folder:
        assert not (tmp_path / "new").exists()
        folder.open()
        assert claim(tmp_path / "new")[0] == 1


def test_a_job_on_another_machine_that_shows_no_life_has_ended(tmp_path, caplog):
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps(ELSEWHERE))
    with RunFolder(tmp_path, beat=0.05):
        # Not read here: to close the file would give up the claim.
        code, error = claim(tmp_path)
        assert code == 1
        assert f"in use by process {os.getpid()} on " in error
    assert "process 4711 on elsewhere" in caplog.text
    assert lock.read_text() == ""


def test_a_job_on_another_machine_that_shows_life(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps(ELSEWHERE))
    touching = threading.Timer(0.1, os.utime, (lock,))
    touching.start()
    with pytest.raises(UserError, match="in use by process 4711 on elsewhere"):
        RunFolder(tmp_path, beat=0.2).__enter__()
    touching.join()
    assert json.loads(lock.read_text()) == ELSEWHERE


def test_a_job_shows_life(tmp_path):
    with RunFolder(tmp_path, beat=0.02):
        lock = tmp_path / ".lock"
        os.utime(lock, (0, 0))
        waiting = threading.Event()
        for _ in range(500):
            if lock.stat().st_mtime > 0:
                break
            waiting.wait(0.02)
        assert lock.stat().st_mtime > 0


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Signs of life are then all there is, on the same machine too."""

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_folder.fcntl, "lockf", refuse)
    with (
        RunFolder(tmp_path, beat=0.05),
        pytest.raises(UserError, match="is in use by process"),
    ):
        RunFolder(tmp_path, beat=0.2).__enter__()
    with RunFolder(tmp_path, beat=0.05):
        pass


def test_a_lock_that_fails_is_not_taken_for_another_job(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(run_folder.fcntl, "lockf", fail)
    with pytest.raises(UserError, match=r"cannot lock .*\.lock: Input/output error"):
        RunFolder(tmp_path).__enter__()


def test_evaluations_beside_a_run_have_folders_of_their_own(tmp_path):
    assert evaluation_folder(tmp_path) == tmp_path
    (tmp_path / "log.txt").touch()
    assert evaluation_folder(tmp_path) == tmp_path
    (tmp_path / "results.json").touch()
    names = [evaluation_folder(tmp_path).name for _ in range(3)]
    assert names == ["evaluation", "evaluation-2", "evaluation-3"]
