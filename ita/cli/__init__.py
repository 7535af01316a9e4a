"""The ``ita`` command, with one module per subcommand, which parses, calls and prints.

Modules of this package defer heavy imports until the arguments are parsed, so that ``--help`` is
fast.
"""

import argparse
import gc
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ita.errors import UserError, missing_module, one_line
from ita.shortages import explain

# Subcommand -> summary. The module of a subcommand has its name, with underscores.
SUBCOMMANDS = {
    "segment": "segment images into classes given as words",
    "web": "a page on which people segment their own images",
    "train": "train a model, or resume its training",
    "evaluate": "evaluate a checkpoint on data sets",
    "reproduce": "evaluate on all benchmarks, beside published results",
    "export": "export a model to ONNX or torch.export, with an open vocabulary",
    "compare": "results of runs side by side",
    "convert": "convert checkpoints to and from FC-CLIP and the first ITA release",
    "datasets": "check and prepare data sets",
    "toy": "the toy world: demo, scenes, CLIP and model",
    "install-detectron2": "install Detectron2 and panopticapi, which are not on PyPI",
}
INTERRUPTED, BROKEN_PIPE = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: arguments after ``ita``; None selects those of the process.

    Returns:
        Exit code.
    """
    show_every_character()
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _build_parser(words)
    options = parser.parse_args(words)
    if options.version:
        from ita.cli.version import describe_versions

        sys.stdout.write(describe_versions())
        return 0
    if options.subcommand is None:
        parser.print_help()
        return 2
    try:
        return options.run(options)
    except ModuleNotFoundError as error:
        if not (message := missing_module(error)):
            raise
        sys.stderr.write(f"error: {message}\n")
        return 1
    except UserError as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 1
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{str(stop) or 'stopped'}\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output is gone; Python must not try to flush the rest to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (RuntimeError, OSError, MemoryError) as error:
        if not (message := explain(error)):
            raise
        sys.stderr.write(f"error: {message}\n")
        return 1


def show_every_character() -> None:
    """Write characters that the terminal's encoding lacks as escapes, rather than stop at them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause the search for garbage during imports.

    They create a million objects, all of them kept, and searching these again and again takes a
    sixth of the time of importing PyTorch and its libraries.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser of a command line; only its subcommand is imported and adds arguments."""
    parser = argparse.ArgumentParser(
        prog="ita", description="Image-Text Aggregation for open-vocabulary segmentation."
    )
    parser.add_argument("--version", action="store_true", help="print versions and exit")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND")
    for name, summary in SUBCOMMANDS.items():
        if name not in words[:1]:
            subparsers.add_parser(name, help=summary, add_help=False)
            continue
        module = importlib.import_module(f"ita.cli.{name.replace('-', '_')}")
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
    return parser
