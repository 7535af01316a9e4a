"""The machine and the versions that figures depend on."""

import os
import platform
from pathlib import Path
from typing import Any

from ita.installing import installed_versions

# Instruction sets that matrix products, convolutions and conversions choose between.
INSTRUCTIONS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_bf16", "asimd", "bf16", "sve",
)  # fmt: skip


def describe(device: str, *, with_torch: bool = True) -> dict[str, Any]:
    """Describe the machine: processor, cores, instruction sets, versions; threads and GPU."""
    name, flags = _processor()
    facts: dict[str, Any] = {
        "processor": name,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "instruction sets": [flag for flag in INSTRUCTIONS if flag in flags],
        "versions": {"python": platform.python_version(), **installed_versions()},
    }
    if with_torch:
        import torch

        facts["threads"] = torch.get_num_threads()
        facts["PyTorch uses"] = torch.backends.cpu.get_cpu_capability()
        if device.startswith("cuda"):
            facts["GPU"] = torch.cuda.get_device_name(device)
    return facts


def _processor() -> tuple[str, set[str]]:
    """Name and instruction sets of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    entries = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    name = entries.get("model name") or platform.processor() or platform.machine()
    return name, set((entries.get("flags") or entries.get("Features") or "").split())
