"""Operators of the model, each a single function defined by its plain PyTorch implementation."""

from ita.modeling.ops.deformable_attention import deformable_attention

__all__ = ["deformable_attention"]
