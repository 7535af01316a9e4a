"""Tracing of graphs, and their files in the formats of ONNX and of PyTorch."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ita.errors import UserError
from ita.extras import optional_module
from ita.modeling.ops.plain import plain_operators
from ita.modeling.storage import reason
from ita.runtime.export_files import ONNX_SUFFIX, TORCH_SUFFIX

# The first version of ONNX in which GridSample and Resize have their present form.
OPSET = 20


def check_libraries(suffix: str) -> None:
    """Check, before any work, that the libraries for a format are installed.

    Raises:
        UserError: one is missing.
    """
    if suffix == ONNX_SUFFIX:
        for name in ("onnx", "onnxscript"):
            optional_module(name, "exporting to ONNX")


def write_graph(
    graph: nn.Module,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, Mapping[int, Any]],
    outputs: Sequence[str],
    path: Path,
) -> None:
    """Trace a graph and write it.

    Args:
        graph: the graph.
        inputs: examples of its inputs by name.
        sizes: the sizes that vary, by input and dimension.
        outputs: names of its outputs.
        path: the file, ``.onnx`` or ``.pt2``.

    Raises:
        UserError: the graph cannot be exported.
    """
    try:
        with plain_operators(), torch.no_grad(), _quiet():
            program = torch.export.export(
                graph.eval(), (), kwargs=dict(inputs), dynamic_shapes=dict(sizes)
            )
            write = {ONNX_SUFFIX: _write_onnx, TORCH_SUFFIX: _write_torch}[path.suffix]
            write(program, outputs, path)
    except (OSError, UserError):  # such as a full disk, no fault of the model
        raise
    except Exception as error:  # exporters raise almost any exception
        raise UserError(f"this model cannot be exported to {path.name}: {reason(error)}") from error


def _write_torch(program: ExportedProgram, _: Sequence[str], path: Path) -> None:
    torch.export.save(program, path)


def _write_onnx(program: ExportedProgram, outputs: Sequence[str], path: Path) -> None:
    converted = torch.onnx.export(
        program,
        output_names=outputs,
        opset_version=OPSET,
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        # The optimizer takes an addition of 1e-8 for one of 0. ONNX Runtime has its own.
        optimize=False,
        verbose=False,
    )
    assert converted is not None
    # Weights go to a file of their own if they are too large for one with the graph.
    converted.save(path, external_data=False)


def _stable_sort(
    x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """Translate a sort that PyTorch's table lacks; TopK, too, keeps the order of equal values."""
    op: Any = optional_module("onnxscript", "exporting to ONNX").opset20
    count = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
    return op.TopK(x, count, axis=dim, largest=int(descending), sorted=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what exporters say to their developers."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
