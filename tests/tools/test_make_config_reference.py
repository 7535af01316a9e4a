"""docs/configuration.md, which a script writes from the table of keys."""

import re
import sys
from pathlib import Path

import make_config_reference
import pytest
from detectron2.config import get_cfg

from ita.config import add_ita_config, flatten, load_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_the_page_is_current(text):
    """If not: python tools/make_config_reference.py"""
    assert make_config_reference.reference() == text


def test_check_fails_for_an_old_page(monkeypatch, tmp_path, capsys):
    page = tmp_path / "configuration.md"
    monkeypatch.setattr(make_config_reference, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["make_config_reference.py", "--check"])
    assert make_config_reference.main() == 1
    assert "is not current; run: python tools/make_config_reference.py" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["make_config_reference.py"])
    assert make_config_reference.main() == 0
    monkeypatch.setattr(sys, "argv", ["make_config_reference.py", "--check"])
    assert make_config_reference.main() == 0


def test_every_key_that_the_code_reads_is_on_the_page(text):
    cfg = get_cfg()
    add_ita_config(cfg)
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "ita").rglob("*.py"))
    read = (
        set(re.findall(r"cfg\.([A-Z_0-9]+(?:\.[A-Z_0-9]+)*)", sources)) & dict(flatten(cfg)).keys()
    )
    assert len(read) > 50
    assert [key for key in sorted(read) if f"| `{key}` |" not in text] == []


def test_the_example_is_a_config(text):
    (command,) = re.findall(r"```bash\nita train --config-file (.*?)\n```", text, flags=re.DOTALL)
    path, *overrides = [w.strip('"') for w in re.findall(r'"[^"]*"|[^\s\\]+', command)]
    cfg = load_config(ROOT / path, overrides)
    assert (cfg.SOLVER.STEPS, cfg.TEST.REPORT) == ((20, 30), False)


def test_the_page_shows_ranges(text):
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    assert "| integer from 0 to 1024 |" in rows["DATALOADER.NUM_WORKERS"]
    assert "| integer from 0 |" in rows["MODEL.ITA.NUM_DOMINANT"]
    assert "| -1 or an integer from 0 to 32767 |" in rows["INPUT.MIN_SIZE_TEST"]
    assert "| number above 0 |" in rows["SOLVER.BASE_LR"]
    assert '| `"prompted"`, `"bare"` |' in rows["MODEL.ITA.CANDIDATE_TEXT"]
