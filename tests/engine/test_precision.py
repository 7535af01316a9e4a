"""Precision of matrix products."""

import contextlib

import pytest
import torch

from ita.engine.precision import describe_precision, matmul_dtype, native_dtype, tf32
from ita.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_type_of_matrix_products():
    assert matmul_dtype(False, "float16", CUDA) == torch.float32
    assert matmul_dtype(True, "auto", CUDA) == torch.float16
    assert matmul_dtype(True, "auto", CPU) == torch.bfloat16
    assert matmul_dtype(True, "bfloat16", CUDA) == torch.bfloat16


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
    ],
)
def test_native_type_of_matrix_products(features, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert native_dtype(CPU) == expected
    assert native_dtype(CUDA) == torch.float16
    assert native_dtype(torch.device("mps")) == torch.float32


def test_native_type_of_a_cpu_that_pytorch_does_not_describe(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert native_dtype(CPU) == torch.float32


@pytest.mark.parametrize(
    ("dtype", "allow_tf32", "device", "expected"),
    [
        (torch.float32, False, CUDA, "float32"),
        (torch.float32, True, CUDA, "float32 with TF32"),
        (torch.float32, True, CPU, "float32"),
        (torch.float16, True, CUDA, "float16"),
        (torch.bfloat16, False, CPU, "bfloat16"),
    ],
)
def test_names_of_precisions(dtype, allow_tf32, device, expected):
    assert describe_precision(dtype, allow_tf32, device) == expected


def allowed():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_is_set_and_restored():
    """Also with an evaluation inside a training run."""
    before = allowed()
    with tf32(True, CUDA):
        assert allowed() == (True, True)
        with tf32(False, CUDA):
            assert allowed() == (False, False)
        assert allowed() == (True, True)
    assert allowed() == before


def test_tf32_is_restored_after_an_error():
    before = allowed()
    with contextlib.suppress(UserError), tf32(not before[0], CUDA):
        raise UserError
    assert allowed() == before


def test_tf32_is_a_matter_of_gpus():
    with tf32(True, CPU):
        assert allowed() == (False, False)
        assert torch.get_float32_matmul_precision() == "highest"
