"""A GPU that does not exist: tensors that PyTorch takes to be on "cuda", with values on the CPU.

PyTorch's fake tensors have a device, shape and type, but no values, and an operation on tensors of
different devices raises ``FakeTensorDeviceMismatchError``. Here each also holds its values,
computed on the CPU: code that depends on values runs as on a GPU, and its results can be compared.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
# Device of these tensors for PyTorch's C++ code, which needs a driver to differentiate on "cuda".
META = torch.device("meta")
aten = torch.ops.aten


class FakeCuda(FakeTensorMode):
    """Fake tensors with values.

    Attributes:
        waits: number of operations for which the CPU waits for the results of the GPU.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits = 0
        self._nested = False

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the fake tensors and on their values."""
        kwargs = dict(kwargs or {})
        if func == torch.ops.prim.device.default:
            return META if _on_gpu(args[0]) else args[0].device
        if kwargs.get("device") == META:
            kwargs["device"] = CUDA
        if self._nested:  # an operation inside another, which needs no values
            return super().dispatch(func, types, args, kwargs)
        self.waits += _waits(func, args, kwargs)
        real = _run_on_cpu(func, args, kwargs)
        fake = self._run_on_fakes(func, types, args, kwargs, real)
        for tensor, values in zip(tree_leaves(fake), tree_leaves(real), strict=True):
            _attach(tensor, values)
        return fake

    def _run_on_fakes(self, func: Any, types: Any, args: Any, kwargs: Any, real: Any) -> Any:
        self._nested = True
        try:
            return super().dispatch(func, types, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            # Its result, or the size of it, depends on values.
            self.waits += any(map(_on_gpu, tree_leaves(args)))
            device = next(a.device for a in tree_leaves(args) if isinstance(a, Tensor))
            return tree_map_only(Tensor, lambda values: self.hold(values, device), real)
        finally:
            self._nested = False

    def hold(self, values: Tensor, device: torch.device = CUDA) -> FakeTensor:
        """Put values on a device."""
        with unset_fake_temporarily():
            meta = torch.empty_strided(
                values.shape, values.stride(), dtype=values.dtype, device=META
            )
        return _attach(FakeTensor(self, meta, device), values)

    def move(self, module: nn.Module) -> None:
        """Move a module's weights to the GPU, in place."""
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                with unset_fake_temporarily():
                    values = parameter.detach()
                moved = nn.Parameter(self.hold(values), parameter.requires_grad)
                setattr(part, name, _attach(moved, values))
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, self.hold(buffer))


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Run a block with a fake GPU."""
    FakeTensor.numpy = _numpy  # type: ignore[method-assign]
    try:
        with FakeCuda() as gpu:
            yield gpu
    finally:
        del FakeTensor.numpy


def _numpy(tensor: FakeTensor, *, force: bool = False) -> Any:
    """Values as an array, for libraries such as scipy; not of a tensor on the GPU."""
    if _on_gpu(tensor):
        raise TypeError("can't convert a cuda tensor to numpy: copy it to the CPU first")
    with unset_fake_temporarily():
        return values_of(tensor).numpy(force=force)


def values_of(x: Any) -> Any:
    """Values of a fake tensor; anything else as it is."""
    return x.values_on_cpu if isinstance(x, FakeTensor) else x


def _attach(tensor: Any, values: Any) -> Any:
    if isinstance(tensor, FakeTensor):
        tensor.values_on_cpu = values
    return tensor


def _run_on_cpu(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": CPU}
    with unset_fake_temporarily():
        return func(*tree_map(values_of, args), **tree_map(values_of, kwargs))


def _on_gpu(x: Any) -> bool:
    return isinstance(x, FakeTensor) and x.device.type == CUDA.type


def _waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation whose result has a known size needs values of the GPU on the CPU."""
    if func is aten._to_copy.default:
        return _on_gpu(args[0]) and kwargs.get("device") == CPU
    if func in (aten.index_put.default, aten.index_put_.default):
        # A boolean index is converted to positions.
        return any(_on_gpu(i) and i.dtype == torch.bool for i in args[1] if i is not None)
    return func is aten.copy_.default and _on_gpu(args[1]) and not _on_gpu(args[0])
