"""Options that name a model, and its loading."""

import argparse
from typing import TYPE_CHECKING

from ita.cli import garbage_collection_paused
from ita.errors import UserError

if TYPE_CHECKING:
    from ita.predictor import Predictor


def add_model_arguments(parser: argparse.ArgumentParser, weights_note: str = "") -> None:
    """Add the arguments; ``weights_note`` ends the help of ``--weights``."""
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="config of the model (default: the toy model)")
    weights_help = f"checkpoint (default: MODEL.WEIGHTS){weights_note}"
    add("--weights", default="", metavar="FILE", help=weights_help)
    add("--device", help="device, such as cuda (default: that of the config)")
    add(
        "--precision",
        default="auto",
        metavar="TYPE",
        help="float32, bfloat16, float16 or auto, the fastest of the device (default: auto)",
    )


def check_model_options(options: argparse.Namespace) -> None:
    """Check what can be checked without the model.

    Raises:
        UserError: weights without their config.
    """
    if options.config_file is None and options.weights:
        raise UserError("--weights needs the --config-file of its model")


def load_predictor(options: argparse.Namespace) -> "Predictor":
    """Load the model that the options name."""
    with garbage_collection_paused():
        from ita.predictor import load

    return load(options.config_file, options.weights, options.device, precision=options.precision)
