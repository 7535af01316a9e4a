"""Write docs/configuration.md from the table of keys in ita/config.

python tools/make_config_reference.py            write the page
python tools/make_config_reference.py --check    exit code 1 if it is not current
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detectron2.config import get_cfg

from ita.ancestor_keys import FIXED
from ita.config import flatten, load_config
from ita.config.detectron2_keys import DETECTRON2_KEYS
from ita.config.keys import ITA_KEYS
from ita.config.ranges import LARGEST, OneOf, Range, Switch
from ita.files import find_file, write_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
MAIN_CONFIG = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
INTRODUCTION = """\
# Configuration

<!-- Written by tools/make_config_reference.py from ita/config; do not edit. -->

A config is a YAML file, whose `_BASE_` names the one that it inherits from. `KEY VALUE` pairs at
the end of a command come last:

```bash
ita train --config-file configs/toy/ita_tiny.yaml \\
    SOLVER.MAX_ITER 40 SOLVER.STEPS "(20, 30)" TEST.REPORT False
```

Values are Python literals: `True`, `0.001`, `"(20, 30)"`; anything else is a string, and a string
that looks like a literal is put in quotes twice: `OUTPUT_DIR '"2026"'`. A tuple of one entry may be
written without parentheses. An unknown key, and a value of another type or outside
the range that the tables state, stop the command, with one line that names the key. In Python,
`ita.load(…, overrides=["TEST.AMP", "True"])` takes the same pairs. A run writes all of its keys to
`config.yaml` in `OUTPUT_DIR`, which is a config again.

[design.md](design.md) defines the quantities that keys of the model stand for.
"""
DETECTRON2_INTRODUCTION = f"""
## Detectron2's keys

Those that ITA reads. The third column is the value in
`{MAIN_CONFIG}`. Detectron2's other keys
can be set and have no effect. A warning names those among them that configs of FC-CLIP and
Mask2Former set ([migration.md](migration.md#config-files)).

"""
FIXED_INTRODUCTION = """
## Keys with fixed values

Configs of FC-CLIP and Mask2Former may contain these keys. Another value is an error.

"""


def reference() -> str:
    """Return the page."""
    detectron2_defaults = dict(flatten(get_cfg()))
    main = dict(flatten(load_config(find_file(MAIN_CONFIG))))
    parts = [INTRODUCTION]
    for title, keys in ITA_KEYS.items():
        header = "| key | default | values | meaning |\n| --- | --- | --- | --- |\n"
        rows = [
            _row(f"`{key.name}`", _value(key.default), _range(key.range), _markdown(key.meaning))
            for key in keys
        ]
        parts.append(f"\n## {title}\n\n{header}{''.join(rows)}")
    header = "| key | default | ITA on COCO | values | meaning |\n| --- | --- | --- | --- | --- |\n"
    rows = [
        _row(
            f"`{key.name}`",
            _value(detectron2_defaults[key.name]),
            _value(main[key.name]),
            _range(key.range),
            _markdown(key.meaning),
        )
        for key in DETECTRON2_KEYS
    ]
    parts.append(f"{DETECTRON2_INTRODUCTION}{header}{''.join(rows)}")
    header = "| key | value | reason |\n| --- | --- | --- |\n"
    rows = [
        _row(f"`{name}`", _values(_as_tuple(only)), _markdown(reason))
        for name, (only, reason) in FIXED.items()
    ]
    parts.append(f"{FIXED_INTRODUCTION}{header}{''.join(rows)}")
    return "".join(parts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _value(value: Any) -> str:
    """Show a value as it is written in YAML."""
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return f"`{text}`".replace("'", '"')


def _range(allowed: Range) -> str:
    """Show the values that a key can have."""
    if isinstance(allowed, OneOf):
        return _values(allowed.choices)
    if isinstance(allowed, Switch):
        return "bool"
    limit = rf"(?<!-{LARGEST}) to {LARGEST}\b"  # which says nothing to a reader
    return re.sub(rf"^an? |{limit}", "", str(allowed))


def _as_tuple(only: Any) -> tuple[Any, ...]:
    return only if isinstance(only, tuple) else (only,)


def _values(values: Iterable[Any]) -> str:
    return ", ".join(map(_value, values))


def _markdown(text: str) -> str:
    """Mark keys and strings as code, and link the documentation."""
    text = re.sub(r"(?<![\w.])(?:[A-Z][A-Z0-9]*[_.])+[A-Z0-9_.]*[A-Z0-9]\b", r"`\g<0>`", text)
    text = re.sub(r'"[\w/]*"', r"`\g<0>`", text)
    return re.sub(r"(docs/)?(\w+\.md)(#[\w-]+)?", _link, text)


def _link(match: re.Match[str]) -> str:
    folder, name, anchor = match.groups(default="")
    return f"[{name}]({'' if folder else '../'}{name}{anchor})"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare the page")
    options = parser.parse_args()
    text = reference()
    if not options.check:
        write_atomically(PAGE, text.encode())
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"error: {PAGE} is not current; run: python tools/{Path(__file__).name}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
