"""Ceilings of the machine, and the arithmetic and memory traffic of the model's parts."""

from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.works import Work, build, made_up_classes, precision_of, set_precision

# Side of the matrices: large enough for the best speed, small enough for tests.
SIDE = 2048
# Bytes that are copied: more than fits in a cache.
COPIED = 1 << 28


def prepare(settings: Namespace) -> Work:
    """Prepare a part of ``benchmarking.cases.PARTS``; its amounts are GFLOP and GB of a pass."""
    device = torch.device(settings.device)
    if settings.part == "matrix product":
        a, b = torch.randn(2, SIDE, SIDE, dtype=precision_of(settings), device=device)
        return Work(lambda: a @ b, {"GFLOP": 2 * SIDE**3 / 1e9}, settings.device)
    if settings.part == "copy":
        source = torch.ones(COPIED, dtype=torch.uint8, device=device)
        target = torch.zeros_like(source)
        return Work(lambda: target.copy_(source), {"GB": 2 * COPIED / 1e9}, settings.device)
    run = _part(settings)
    return Work(run, {"images": 1, **count(run)}, settings.device)


def _part(settings: Namespace) -> Callable[[], object]:
    """Return a function that runs a part of the model on one image."""
    from benchmarking.models import build_segmenter, random_record

    cfg, model = build(settings)
    segmenter = build_segmenter(cfg, model, made_up_classes(settings.classes))
    precision = set_precision(settings, model)
    records = [random_record(settings.size)]
    image = torch.randn(1, 3, settings.size, settings.size, device=model.device)
    with torch.no_grad(), precision:
        encoded = model.encode_images(records)
        features = model.backbone(image)
    part = {
        "image tower": lambda: model.backbone(image),
        "feature encoder": lambda: model.pixel_decoder(features),
        "decoder": lambda: model.decode(encoded, segmenter.vocabulary),
        "whole image": lambda: segmenter.segment(records),
    }[settings.part]

    @torch.no_grad()
    def run() -> object:
        with precision:
            return part()

    return run


def count(run: Callable[[], object]) -> dict[str, float]:
    """Count a call in PyTorch's plain operators.

    Returns:
        ``GFLOP`` of matrix products and convolutions, two per multiplication and addition; ``GB``
        that all operators read and write if each reads its input from memory and writes its output
        there.
    """
    try:
        from ita.modeling.ops.plain import plain_operators
    except ImportError:  # a checkout from before there were other operators
        plain_operators = nullcontext
    flops, traffic = FlopCounterMode(display=False), Traffic()
    with plain_operators(), flops, traffic:
        run()
    return {"GFLOP": flops.get_total_flops() / 1e9, "GB": traffic.bytes / 1e9}


class Traffic(TorchDispatchMode):
    """Sums the bytes of the operators' inputs and outputs; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        output = function(*args, **(kwargs or {}))
        if not function.is_view:
            moved = tree_leaves((args, kwargs, output))
            self.bytes += sum(t.nbytes for t in moved if isinstance(t, torch.Tensor))
        return output
