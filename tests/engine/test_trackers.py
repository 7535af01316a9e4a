"""Weights & Biases and trackio, without network and accounts."""

import json
import sqlite3
import sys
import time
import types

import pytest
from detectron2.utils.events import EventStorage

from ita.engine.trackers import ID_FILE, TrackerWriter
from ita.engine.trainer import Trainer
from ita.errors import UserError

SHORT = {"SOLVER__MAX_ITER": 2, "DATASETS__TEST": ()}


class Library(types.ModuleType):
    """A tracker that notes its calls, and fails in those that are named.

    It has the functions that both libraries share.
    """

    def __init__(self, name, failing=()):
        super().__init__(name)
        self.calls, self.failing = [], failing

    def _call(self, name, /, *values, **options):
        self.calls.append((name, *values, options))
        if name in self.failing:
            raise ConnectionError("no network")

    def Settings(self, **options):
        return options

    def init(self, **options):
        self._call("init", **options)
        return self

    def log(self, scalars, step):
        self._call("log", scalars, step=step)

    def finish(self):
        self._call("finish")

    @property
    def names(self):
        return [call[0] for call in self.calls]


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request):
    return request.param


def install(name, monkeypatch, **options):
    library = Library(name, **options)
    monkeypatch.setitem(sys.modules, name, library)
    return library


def test_each_scalar_is_sent_once_in_ascending_order(tracker, tmp_path, monkeypatch):
    """Also those of an evaluation, which are older than the last iteration."""
    library = install(tracker, monkeypatch)
    with EventStorage() as storage:
        writer = TrackerWriter(tracker, tmp_path, {"SEED": 3})
        storage.put_scalar("mIoU", 30.0)
        storage.iter = 4
        storage.put_scalars(total_loss=5.0, smoothing_hint=False)
        writer.write()
        storage.iter = 9
        storage.put_scalars(total_loss=3.0, smoothing_hint=False)
        writer.write()
        writer.write()
        writer.close()
    assert library.names == ["init", "log", "log", "log", "finish"]
    assert [(row, options["step"]) for _, row, options in library.calls[1:4]] == [
        ({"mIoU": 30}, 0),
        ({"total_loss": 5}, 4),
        ({"total_loss": 3}, 9),
    ]
    assert library.calls[0][1]["config"] == {"SEED": 3}
    assert library.calls[0][1]["project"] == "ita"


def test_a_resumed_run_goes_on_in_the_tracker(tracker, tmp_path, monkeypatch):
    library = install(tracker, monkeypatch)
    monkeypatch.setenv(f"{tracker.upper()}_PROJECT", "mine")
    for resumed in (False, True, False):
        TrackerWriter(tracker, tmp_path, {}, resumed=resumed)
    first, second, third = (call[1] for call in library.calls)
    assert first == second != third
    assert first["project"] == "mine"
    assert first["resume"] == "allow"
    assert first["name"].startswith(tmp_path.name)


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_a_tracker_that_fails_does_not_stop_training(
    failing, tracker, tiny_config, tmp_path, monkeypatch, caplog
):
    library = install(tracker, monkeypatch, failing=[failing])
    Trainer(tiny_config(**SHORT, SOLVER__TRACKER=tracker)).train()
    assert library.names[-1] == failing
    (warning,) = [line for line in caplog.messages if "SOLVER.TRACKER" in line]
    assert warning.startswith(f"{tracker} (SOLVER.TRACKER) failed")
    assert "ConnectionError: no network" in warning
    assert (tmp_path / "run" / "model_final.pth").is_file()
    assert "total_loss" in (tmp_path / "run" / "metrics.json").read_text()


def test_a_missing_library_is_an_error_before_anything_is_read(tracker, tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, tracker, None)
    cfg = tiny_config(SOLVER__TRACKER=tracker)
    with pytest.raises(UserError, match=rf"SOLVER\.TRACKER {tracker} needs .*\[{tracker}\]"):
        Trainer(cfg)


def test_an_unknown_tracker(tiny_config):
    with pytest.raises(UserError, match=r"SOLVER\.TRACKER is 'wanbd'; .*'wandb', 'trackio'"):
        tiny_config(SOLVER__TRACKER="wanbd")


def test_wandb_offline(tiny_config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    Trainer(tiny_config(**SHORT, SOLVER__TRACKER="wandb")).train()
    folder = tmp_path / "run"
    (run,) = (folder / "wandb").glob("offline-run-*")
    (events,) = run.glob("*.wandb")
    assert (folder / ID_FILE).read_text().strip() in events.name
    # wandb's own process writes the file, and may take a moment longer.
    for _ in range(100):
        if b"total_loss" in events.read_bytes():
            return
        time.sleep(0.1)
    raise AssertionError("no loss was written")


def test_trackio_keeps_a_data_base(tiny_config, tmp_path, monkeypatch):
    utils = pytest.importorskip("trackio.utils")
    for module in (utils, sys.modules["trackio.sqlite_storage"]):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    Trainer(tiny_config(**SHORT, SOLVER__TRACKER="trackio")).train()
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    ((name, step, metrics),) = rows
    assert name == f"run-{(tmp_path / 'run' / ID_FILE).read_text().strip()}"
    assert step == 1
    assert json.loads(metrics)["total_loss"] > 0
