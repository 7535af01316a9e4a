"""Write docs/configuration.md from the defaults and the comments of ita/config.py.

python tools/make_config_reference.py            write the page
python tools/make_config_reference.py --check    exit code 1 if it is not current
"""

import argparse
import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import get_cfg

import ita.config
from ita.ancestor_keys import ARCHITECTURE, ARCHITECTURES, FIXED
from ita.config import CHOICES, add_ita_config, flatten, load_config
from ita.errors import UserError
from ita.files import find_file, write_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
MAIN_CONFIG = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"
# Keys of Detectron2 that this code reads, itself or through Detectron2, and their meaning.
DETECTRON2: dict[str, str] = {
    "MODEL.DEVICE": "cuda, cuda:1 or cpu. Without a GPU, training stops with an error, and "
    "evaluation falls back to the CPU.",
    "MODEL.WEIGHTS": "Checkpoint to evaluate, or that training starts from (.pth, .safetensors), "
    "also of FC-CLIP and of the first ITA release; CLIP's weights are not in it.",
    "DATASETS.TRAIN": "Registered data sets to train on, with the same classes. Their class list "
    "determines the seen classes in evaluations of checkpoints that contain no class list.",
    "DATASETS.TEST": "Registered data sets to evaluate on.",
    "DATALOADER.NUM_WORKERS": "Worker processes that read images, for each GPU; 0 reads them in "
    "the process itself.",
    "INPUT.RANDOM_FLIP": '"horizontal" flips training images with probability 0.5; "none" does '
    "not.",
    "SOLVER.IMS_PER_BATCH": "Images of an optimizer step, over all GPUs.",
    "SOLVER.BASE_LR": "Learning rate.",
    "SOLVER.MAX_ITER": "Number of optimizer steps.",
    "SOLVER.LR_SCHEDULER_NAME": '"WarmupMultiStepLR", "WarmupCosineLR" or '
    '"WarmupStepWithFixedGammaLR".',
    "SOLVER.STEPS": "Increasing iterations after which WarmupMultiStepLR multiplies the learning "
    "rate by SOLVER.GAMMA; those above SOLVER.MAX_ITER are ignored.",
    "SOLVER.GAMMA": "This factor.",
    "SOLVER.BASE_LR_END": "Last learning rate of WarmupCosineLR.",
    "SOLVER.NUM_DECAYS": "Number of equally spaced steps of WarmupStepWithFixedGammaLR.",
    "SOLVER.WARMUP_ITERS": "Iterations of the warm-up; 0 for none.",
    "SOLVER.WARMUP_FACTOR": "Learning rate at its start, relative to SOLVER.BASE_LR.",
    "SOLVER.WARMUP_METHOD": '"linear" or "constant".',
    "SOLVER.RESCALE_INTERVAL": "Stretch the rest of the schedule over the iterations after the "
    "warm-up.",
    "SOLVER.WEIGHT_DECAY": "Weight decay of AdamW.",
    "SOLVER.WEIGHT_DECAY_NORM": "Weight decay of norm layers.",
    "SOLVER.CLIP_GRADIENTS.ENABLED": "Clip the gradient norm of the whole model.",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "Its maximum.",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": "p of the norm.",
    "SOLVER.AMP.ENABLED": "Train in mixed precision.",
    "SOLVER.CHECKPOINT_PERIOD": "Iterations between checkpoints; 0 writes the last one only.",
    "SOLVER.REFERENCE_WORLD_SIZE": "Number of GPUs that batch size, learning rate and schedule "
    "are meant for: they are scaled to the number of GPUs of the run. 0 disables it.",
    "TEST.EVAL_PERIOD": "Iterations between evaluations; 0 evaluates at the end only.",
    "TEST.DETECTIONS_PER_IMAGE": "Maximum number of instances of an image.",
    "OUTPUT_DIR": "Folder of checkpoints, log and results.",
    "SEED": "Seed of the random numbers; a negative one draws a seed, which the log names.",
    "CUDNN_BENCHMARK": "Let cuDNN try its algorithms, which pays with images of one size.",
}
INTRODUCTION = """\
# Configuration

<!-- Written by tools/make_config_reference.py from ita/config.py; do not edit. -->

A config is a YAML file, whose `_BASE_` names the one that it inherits from. `KEY VALUE` pairs at
the end of a command come last:

```bash
ita train --config-file configs/toy/ita_tiny.yaml \\
    SOLVER.MAX_ITER 40 SOLVER.STEPS "(20, 30)" TEST.REPORT False
```

Values are Python literals: `True`, `0.001`, `"(20, 30)"`; anything else is a string. A tuple of
one entry may be written without parentheses. An unknown key, a value of another type and one that
cannot work stop the command, with one line that names the key. In Python,
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


@dataclass(frozen=True)
class Key:
    """A config key with its default and its meaning."""

    name: str
    default: Any
    meaning: str


def reference() -> str:
    """Return the page.

    Raises:
        UserError: a key has no comment, or a group of keys no docstring.
    """
    cfg = get_cfg()
    detectron2_defaults = dict(flatten(cfg))
    add_ita_config(cfg)
    defaults = dict(flatten(cfg))
    main = dict(flatten(load_config(find_file(MAIN_CONFIG))))
    parts = [INTRODUCTION]
    for title, keys in key_groups(inspect.getsource(ita.config), defaults):
        header = "| key | default | type or values | meaning |\n| --- | --- | --- | --- |\n"
        rows = [
            _row(f"`{k.name}`", _value(k.default), _allowed(k), _markdown(k.meaning)) for k in keys
        ]
        parts.append(f"\n## {title}\n\n{header}{''.join(rows)}")
    header = "| key | default | ITA on COCO | meaning |\n| --- | --- | --- | --- |\n"
    rows = [
        _row(f"`{name}`", _value(detectron2_defaults[name]), _value(main[name]), _markdown(meaning))
        for name, meaning in DETECTRON2.items()
    ]
    parts.append(f"{DETECTRON2_INTRODUCTION}{header}{''.join(rows)}")
    header = "| key | value | reason |\n| --- | --- | --- |\n"
    rows = [
        _row(f"`{name}`", _values(_as_tuple(only)), _markdown(reason))
        for name, (only, reason) in FIXED.items()
    ]
    parts.append(f"{FIXED_INTRODUCTION}{header}{''.join(rows)}")
    return "".join(parts)


def key_groups(source: str, defaults: Mapping[str, Any]) -> Iterator[tuple[str, list[Key]]]:
    """Yield the title and the keys of each function ``_add_*_keys`` of a config module.

    The title is the function's docstring, the meaning of a key the comment above its assignment.

    Args:
        source: source code of the module.
        defaults: dotted key -> default.

    Raises:
        UserError: a key has no comment, or a function no docstring.
    """
    comments = _comments(source)
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef) or not re.fullmatch(
            r"_add_\w+_keys", function.name
        ):
            continue
        title = ast.get_docstring(function)
        if not title:
            raise UserError(f"{function.name} has no docstring, the title of its keys")
        keys = []
        for statement in function.body:
            name = _assigned_key(statement)
            if name in defaults:
                meaning = _comment_above(statement.lineno, comments)
                if not meaning:
                    raise UserError(f"line {statement.lineno}: {name} has no comment above it")
                keys.append(Key(name, defaults[name], meaning))
        yield title.rstrip("."), keys


def _comments(source: str) -> dict[int, str]:
    """Return the text of the comments that are lines of their own, by line number."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }


def _comment_above(line: int, comments: Mapping[int, str]) -> str:
    first = line
    while first - 1 in comments:
        first -= 1
    return " ".join(comments[number] for number in range(first, line))


def _assigned_key(statement: ast.stmt) -> str:
    """Return the dotted key of ``cfg.A.B = ...``; empty for other statements."""
    if not isinstance(statement, ast.Assign):
        return ""
    return ast.unparse(statement.targets[0]).removeprefix("cfg.")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _value(value: Any) -> str:
    """Show a value as it is written in YAML."""
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return f"`{text}`".replace("'", '"')


def _allowed(key: Key) -> str:
    """Show the values that a key can have, or else their type."""
    choices = {**CHOICES, ARCHITECTURE: tuple(ARCHITECTURES)}
    if key.name in choices:
        return _values(choices[key.name])
    if key.name in FIXED:
        return _values(_as_tuple(FIXED[key.name][0]))
    return type(key.default).__name__


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
    try:
        text = reference()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not options.check:
        write_atomically(PAGE, text.encode())
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"error: {PAGE} is not current; run: python tools/{Path(__file__).name}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
