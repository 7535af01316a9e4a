r"""Convert a checkpoint to the names of ITA, FC-CLIP or the first ITA release.

    ita convert fcclip_cocopan.pth fcclip.safetensors
    ita convert output/model_final.pth theirs.pth --to ita-first-release

IN is a checkpoint of any of the three; its kind is recognized by the names of its tensors. Loading
converts by itself, so files of FC-CLIP and of the first ITA release need no conversion for
"ita evaluate" and "ita segment".

Every tensor is listed, one per line:
  mapped   name in IN -> name in OUT, shape
  dropped  name in IN: why OUT does not have it
  kept     name in IN: why it is no weight of OUT, which stores it beside the weights
  missing  name in OUT: what the program that loads OUT does without it

The training class list is kept, the state of training (optimizer, iteration) is not. A tensor keeps
its type and every bit. The frozen CLIP is converted if IN has it; ITA saves none, and FC-CLIP loads
it from open_clip.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ita.errors import UserError

if TYPE_CHECKING:
    from ita.modeling.conversion import Conversion

SUFFIXES = (".pth", ".safetensors")
# Entries beside the weights that are not reported as left out: a mark of the file format, and the
# class weights of the loss, a tensor in files of the ancestors.
KEPT = ("format", "criterion.empty_weight")
TARGETS = ("ita", "fcclip", "ita-first-release")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("source", metavar="IN", help="checkpoint: .pth or .safetensors")
    add("output", metavar="OUT", type=Path, help="new file: .pth or .safetensors")
    add(
        "--to",
        choices=TARGETS,
        default="ita",
        help="names of OUT: ita (default); fcclip, for models with self-attention between queries, "
        "of which dominant categories are left out; ita-first-release, for models with dominant "
        "categories and without self-attention",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Convert a file and list its tensors."""
    from ita.engine.checkpoint import (
        convert_checkpoint,
        export_weights,
        local_path,
        read_checkpoint,
    )

    check_output(options.output)
    checkpoint = read_checkpoint(local_path(options.source))
    converted, conversion = convert_checkpoint(checkpoint, options.source, options.to)
    export_weights(converted, options.output)
    sys.stdout.writelines(f"{line}\n" for line in describe(conversion))
    if others := sorted(checkpoint.keys() - {*converted, *KEPT}):
        sys.stdout.write(f"left out {', '.join(others)}: no tensors of the model\n")
    sys.stdout.write(
        f"{options.output}: {conversion.kind} to {options.to}, {len(conversion.mapped)} mapped, "
        f"{len(conversion.dropped)} dropped, {len(conversion.kept)} kept, "
        f"{len(conversion.missing)} missing\n"
    )
    if count := len(conversion.dropped):
        tensors = "1 tensor was" if count == 1 else f"{count} tensors were"
        sys.stderr.write(f"warning: {tensors} not converted: see dropped\n")
    return 0


def check_output(path: Path) -> None:
    """Check that a file can be written under a new name.

    Raises:
        UserError: the file exists or has another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} must end in {' or '.join(SUFFIXES)}")
    if path.exists():
        raise UserError(f"{path} exists; remove it or choose another name")


def describe(conversion: "Conversion") -> list[str]:
    """Describe every tensor in one line."""
    from ita.modeling.conversion import shape_text

    lines = []
    for name, new_name, tensor, note in conversion.mapped:
        lines.append(f"mapped   {name} -> {new_name}, {shape_text(tensor)}")
        lines[-1] += f" ({note})" if note else ""
    lines += [f"dropped  {name}: {reason}" for name, reason in conversion.dropped.items()]
    lines += [f"kept     {name}: {reason}" for name, reason in conversion.kept.items()]
    lines += [f"missing  {name}: {reason}" for name, reason in conversion.missing.items()]
    return lines
