"""docs/configuration.md, which a script writes from the config's source."""

import re
import sys
from pathlib import Path

import make_config_reference
import pytest
from detectron2.config import get_cfg

from ita.config import add_ita_config, flatten, load_config
from ita.errors import UserError

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
    assert len(read) > 60
    assert [key for key in sorted(read) if f"| `{key}` |" not in text] == []


def test_the_example_is_a_config(text):
    (command,) = re.findall(r"```bash\nita train --config-file (.*?)\n```", text, flags=re.DOTALL)
    path, *overrides = [w.strip('"') for w in re.findall(r'"[^"]*"|[^\s\\]+', command)]
    cfg = load_config(ROOT / path, overrides)
    assert (cfg.SOLVER.STEPS, cfg.TEST.REPORT) == ((20, 30), False)


SOURCE = '''
def _add_some_keys(cfg):
    """Some keys."""
    cfg.A = CfgNode()
    # What it is,
    # in two lines.
    cfg.A.B = 1

    # Not of the next one, which follows a blank line.

    # Of this one.
    cfg.C = ""
'''


def test_the_comment_above_a_key_is_its_meaning():
    ((title, keys),) = make_config_reference.key_groups(SOURCE, {"A.B": 1, "C": ""})
    assert title == "Some keys"
    assert [(key.name, key.default, key.meaning) for key in keys] == [
        ("A.B", 1, "What it is, in two lines."),
        ("C", "", "Of this one."),
    ]


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("    # Of this one.\n", "C has no comment above it"),
        ('    """Some keys."""\n', "_add_some_keys has no docstring"),
    ],
)
def test_what_is_not_described_is_an_error(removed, message):
    with pytest.raises(UserError, match=message):
        list(make_config_reference.key_groups(SOURCE.replace(removed, ""), {"A.B": 1, "C": ""}))
