import io
import logging

import pytest

from ita import progress
from ita.progress import ConsoleHandler, no_progress, show_progress
from tests.terminal import lines_of, run_on_terminal

ON_TERMINAL = """
import logging, sys
from ita.progress import IN_BAR, ConsoleHandler, show_progress

logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[
    ConsoleHandler(sys.stdout), logging.FileHandler(sys.argv[1])
])
with show_progress("counting", 3, "sheep") as advance:
    for count in (1, 2, 5):
        advance(count)
        logging.warning("sheep number %d", count)
        logging.info("in the bar too", extra=IN_BAR)
"""


def test_on_a_terminal_a_bar_stands_below_the_log(tmp_path):
    code, output = run_on_terminal("-c", ON_TERMINAL, str(tmp_path / "log.txt"))
    assert code == 0
    assert "counting:  33%" in output
    assert "1/3 [" in output
    assert "sheep/s" in output
    lines = [line for line in lines_of(output) if line]
    assert lines[:3] == [f"sheep number {count}" for count in (1, 2, 5)]
    assert lines[3].startswith("counting: 3 sheep in 0:00:0")
    assert len(lines) == 4
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert log[0] == "counting: 3 sheep"
    assert log.count("in the bar too") == 3
    assert [line for line in log if line in lines] == lines


def test_without_a_terminal_the_log_has_a_line_now_and_then(caplog, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0)
    caplog.set_level(logging.INFO)
    with show_progress("counting", 2000, "sheep") as advance:
        for count in (500, 500, 1000):
            advance(count)
    assert [line.partition(" sheep")[0] for line in caplog.messages] == [
        "counting: 2,000",
        "counting: 500 of 2,000",
        "counting: 1,000 of 2,000",
        "counting: 2,000",
    ]
    assert all("/s, eta 0:00:0" in line for line in caplog.messages[1:3])
    assert capsys.readouterr() == ("", "")


def test_failed_work_is_not_said_to_be_done(caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match="wolf"), show_progress("counting", 2, "sheep"):
        raise ValueError("wolf")
    assert caplog.messages == ["counting: 2 sheep"]


def test_no_progress(caplog, capsys):
    caplog.set_level(logging.INFO)
    with no_progress("counting", 2, "sheep") as advance:
        advance(2)
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


def test_lines_of_a_bar_are_in_an_output_that_is_no_terminal():
    """Such as a file that stdout is redirected to."""
    stream = io.StringIO()
    record = logging.makeLogRecord({"msg": "iter 20/100", **progress.IN_BAR})
    ConsoleHandler(stream).emit(record)
    assert stream.getvalue() == "iter 20/100\n"
