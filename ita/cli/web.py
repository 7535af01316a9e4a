"""Serve a page on which people segment their own images with their own words.

    ita web
    ita web --config-file configs/... --weights model.pth --device cuda

Without --config-file, the toy model of the package is used, which knows drawn shapes only. The page
is open to this computer alone, unless --host names another address; there is no password. Needs the
library of the extra "web".
"""

import argparse
import os
import sys

from ita.cli import garbage_collection_paused
from ita.cli.model_options import add_model_arguments, check_model_options, load_predictor
from ita.cli.types import positive_int

LOOPBACK = "127.0.0.1"
PORT = 7860
TOY_NOTE = (
    "The model is the toy model of the package, which knows drawn shapes only. For photos, start "
    "the page with a config file and weights."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add_model_arguments(parser)
    add("--host", default=LOOPBACK, help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=PORT, help="port, 0 for a free one (default: %(default)s)")
    for name, default, text in (
        ("--max-megabytes", 20, "size of an image file in MB"),
        ("--max-megapixels", 40, "size of an image in million pixels"),
        ("--max-names", 2000, "number of class names, synonyms included"),
        ("--max-name-length", 100, "characters of a class name"),
        ("--max-sessions", 8, "number of visitors whose image features are kept"),
    ):
        add(
            name,
            type=positive_int,
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load the model and serve the page until Ctrl-C."""
    check_model_options(options)
    # Before Gradio is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with garbage_collection_paused():
        from ita.extras import optional_module
        from ita.web.limits import MEGA, Limits

        optional_module("gradio", "ita web", extra="web")
        from ita.web.server import serve

    limits = Limits(
        upload_bytes=options.max_megabytes * MEGA,
        pixels=options.max_megapixels * MEGA,
        names=options.max_names,
        name_length=options.max_name_length,
        sessions=options.max_sessions,
    )
    note = "" if options.config_file else TOY_NOTE
    model = load_predictor(options)
    try:
        serve(model, limits, options.host, options.port, _announce, note)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
    return 0


def _announce(address: str) -> None:
    sys.stdout.write(f"the page is at {address} (stop: Ctrl-C)\n")
    sys.stdout.flush()
