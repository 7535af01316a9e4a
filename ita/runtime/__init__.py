"""Segmentation with exported models, without PyTorch and Detectron2.

Needs numpy, Pillow and ONNX Runtime, and for class names ``tokenizers`` and ``ftfy``.
"""

from ita.runtime.onnx_model import OnnxModel, load_onnx

__all__ = ["OnnxModel", "load_onnx"]
