"""Precision of matrix products: mixed precision and TF32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def matmul_dtype(enabled: bool, name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products for ``SOLVER.AMP.ENABLED`` and ``SOLVER.AMP.DTYPE``."""
    if not enabled:
        return torch.float32
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.bfloat16
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def native_dtype(device: torch.device) -> torch.dtype:
    """Return the fastest dtype of matrix products of a device that leaves label maps as they are.

    That is float16 on GPUs, bfloat16 on CPUs with instructions for it, else float32: without them,
    products in bfloat16 are several times slower than in float32.
    """
    if device.type == "cuda":
        return torch.float16
    # PyTorch 2.11 does not describe the CPU.
    features: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    instructions = ("amx_bf16", "avx512_bf16", "bf16")  # the last one is ARM's
    if device.type == "cpu" and any(features.get(name) for name in instructions):
        return torch.bfloat16
    return torch.float32


def describe_precision(dtype: torch.dtype, allow_tf32: bool, device: torch.device) -> str:
    """Name the precision of matrix products, such as "float16" or "float32 with TF32"."""
    name = str(dtype).removeprefix("torch.")
    rounded = allow_tf32 and device.type == "cuda" and dtype == torch.float32
    return f"{name} with TF32" if rounded else name


@contextmanager
def tf32(enabled: bool, device: torch.device) -> Iterator[None]:
    """Allow or forbid TF32 in float32 matrix products and convolutions; GPUs only.

    TF32 rounds factors to 10 bits of mantissa, like float16, with the range of float32, and sums in
    float32. The previous setting is restored at the end.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    # PyTorch's switch for matrix products also reaches some CPUs.
    matmul.allow_tf32 = cudnn.allow_tf32 = enabled and device.type == "cuda"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
