import json
import logging
import os
import subprocess
from contextlib import suppress

import pytest

from ita.engine.launch import errors_in_one_line
from ita.engine.run_outputs import NUM_RECENT, LogFile, RecentScalars
from ita.engine.trainer import Trainer


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB and 40 files, and a function that fills the disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=40", "tmpfs"]
    try:
        subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not permitted")

    def fill():
        with open(folder / "fill", "wb", buffering=0) as file, suppress(OSError):
            while file.write(b"0" * 512):
                pass

    yield folder, fill
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_for_some_iterations(trainer, fill, file, steps):
    """Fill the disk before a step and remove the file after another one."""
    first, last = steps
    run_step = trainer.run_step

    def run():
        if trainer.iter == first:
            fill()
        if trainer.iter == last:
            file.unlink()
        run_step()

    trainer.run_step = run


KEYS = {"DATASETS__TEST": (), "SOLVER__CHECKPOINT_PERIOD": 0, "SOLVER__MAX_ITER": 60}


def test_metrics_survive_a_disk_that_is_full_for_a_while(tiny_config, small_disk, capfd):
    """What was not written comes later, and no line is torn; one line tells of each file."""
    folder, fill = small_disk
    trainer = Trainer(tiny_config(**{**KEYS, "OUTPUT_DIR": folder / "run"}))
    trainer.checkpointer.save_to_disk = False  # they are larger than the disk
    full_for_some_iterations(trainer, fill, folder / "fill", (1, 45))
    trainer.train()
    lines = [json.loads(line) for line in (folder / "run" / "metrics.json").open()]
    assert [line["iteration"] for line in lines] == [19, 39, 59]
    errors = capfd.readouterr().err
    assert errors.count("warning: cannot write") == 2
    assert f"metrics.json ({os.strerror(28)})" in errors
    assert "TensorBoard events in" in errors
    assert "Traceback" not in errors


def test_no_inode_is_left_for_outputs(tiny_config, small_disk, capfd):
    folder, _ = small_disk
    (folder / "run").mkdir()
    with suppress(OSError):
        for number in range(100):
            (folder / str(number)).touch()
    trainer = Trainer(tiny_config(**{**KEYS, "SOLVER__MAX_ITER": 2, "OUTPUT_DIR": folder / "run"}))
    trainer.checkpointer.save_to_disk = False
    trainer.train()
    assert list((folder / "run").iterdir()) == []
    assert capfd.readouterr().err.count(os.strerror(28)) == 2


@pytest.fixture
def log_file(tmp_path):
    """A log file of the package's logger."""
    log, file = logging.getLogger("ita"), LogFile(tmp_path / "log.txt")
    log.addHandler(file)
    yield tmp_path / "log.txt"
    log.removeHandler(file)
    file.close()


def test_an_unexpected_error_is_in_the_log_file_with_its_traceback(log_file, capsys):
    with pytest.raises(ZeroDivisionError), errors_in_one_line():
        1 / 0  # noqa: B018
    text = log_file.read_text()
    assert "ita.engine.run_outputs ERROR: error: ZeroDivisionError\nTraceback" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")
    assert capsys.readouterr().err == ""  # Python prints it at the end of the process


def test_a_log_file_that_cannot_be_opened(tmp_path, capsys):
    (tmp_path / "file").touch()
    file = LogFile(tmp_path / "file" / "log.txt")
    for _ in range(2):
        file.handle(logging.makeLogRecord({"msg": "a line"}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: cannot write")
    assert os.strerror(20) in line


def test_a_long_run_keeps_the_last_values_only():
    steps = 3 * NUM_RECENT
    with RecentScalars() as storage:
        for storage.iter in range(steps):
            storage.put_scalar("loss", storage.iter)
    kept = storage.history("loss")
    assert len(kept.values()) == NUM_RECENT
    assert (kept.latest(), kept.median(20)) == (steps - 1, steps - 10.5)
    assert kept.global_avg() == pytest.approx((steps - 1) / 2)
