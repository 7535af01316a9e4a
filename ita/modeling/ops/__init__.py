"""Kernels of the model: one front door each, a plain PyTorch version as the definition."""

from ita.modeling.ops.deformable_attention import deformable_attention

__all__ = ["deformable_attention"]
