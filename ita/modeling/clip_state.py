"""State dicts of CLIP files: reading, layouts of open_clip's versions, comparison with a model."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from ita.modeling.storage import load_mapped

# Metadata that OpenAI's TorchScript archives contain as tensors.
TORCHSCRIPT_METADATA = ("input_resolution", "context_length", "vocab_size")


def read_state(path: Path) -> dict[str, Any]:
    """Read the tensors of a weights file, mapped from disk where its format allows.

    Mapped tensors are read on first use. Writing to them leaves the file as it is, as the mapping
    is private. A file may be replaced or deleted meanwhile, but not overwritten in place.

    Args:
        path: safetensors, a TorchScript archive, or a ``torch.save`` file of a state dict or of a
            training checkpoint with one under ``state_dict``.

    Raises:
        Exception: almost any, if the file is damaged; or ValueError, if it has no state dict.
    """
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if is_torchscript(path):
        state = torch.jit.load(str(path), map_location="cpu").state_dict()
        return {k: v for k, v in state.items() if k not in TORCHSCRIPT_METADATA}
    content = load_mapped(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError("it has no state dict")
    # Distributed training adds a prefix.
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, like OpenAI's original CLIP files."""
    if path.suffix == ".safetensors":
        return False
    try:
        reader = torch.PyTorchFileReader(str(path))
    except RuntimeError:  # not a zip archive; loading the file reports the problem
        return False
    return "constants.pkl" in reader.get_all_records()


def in_layout_of(clip: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Rename tensors to the names of a model.

    The text tower's names have the prefix ``text.`` depending on the version and options of
    open_clip; Apple's own MobileCLIP files have other names altogether. The bias of a CLIP trained
    with a sigmoid loss does not change the order of similarities and is dropped.
    """
    renamed: dict[str, Any] = convert_state_dict(clip, dict(state))
    if isinstance(clip, open_clip.CustomTextCLIP):
        renamed = convert_to_custom_text_state_dict(renamed)
    else:
        renamed = {name.removeprefix("text."): tensor for name, tensor in renamed.items()}
    if clip.logit_bias is None:
        renamed.pop("logit_bias", None)
    # A vector of one number in some versions.
    for name in renamed.keys() & {"logit_scale", "logit_bias"}:
        if isinstance(renamed[name], Tensor) and renamed[name].numel() == 1:
            renamed[name] = renamed[name].reshape(getattr(clip, name).shape)
    return renamed


def differences(clip: nn.Module, state: Mapping[str, Any]) -> str:
    """Describe in one line how names and shapes differ from a model's; "" if they do not."""
    expected = {name: list(tensor.shape) for name, tensor in clip.state_dict().items()}
    # The image tower first, as models differ in it the most.
    expected = dict(sorted(expected.items(), key=lambda item: not item[0].startswith("visual.")))
    found = {name: _shape(tensor) for name, tensor in state.items()}
    shapes = [
        f"{name} is {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    missing = [f"it lacks {name}" for name in expected if name not in found]
    unknown = [f"it has the unknown {name}" for name in found if name not in expected]
    return "; ".join(
        cases[0] + (f" and {len(cases) - 1} more" if len(cases) > 1 else "")
        for cases in (shapes, missing, unknown)
        if cases
    )


def assign_state(clip: Any, state: dict[str, Tensor]) -> None:
    """Make the tensors of a fitting state dict the weights of a model without values.

    They are not copied unless their type or layout differs or they share memory. The causal mask of
    open_clip's text towers is set as well.

    Args:
        clip: a model on the meta device.
        state: names and shapes are those of the model. It is emptied, so that a converted tensor's
            original is freed before the next is converted.
    """
    weights: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, expected in clip.state_dict().items():
        tensor = state.pop(name).detach().to(expected.dtype).contiguous()
        if tensor.data_ptr() in addresses:
            tensor = tensor.clone()
        addresses.add(tensor.data_ptr())
        weights[name] = tensor
    clip.load_state_dict(weights, assign=True)
    text = clip.text if isinstance(clip, open_clip.CustomTextCLIP) else clip
    if isinstance(getattr(text, "attn_mask", None), Tensor):
        text.attn_mask = torch.full(text.attn_mask.shape, -torch.inf).triu_(1)


def has_values(model: nn.Module) -> bool:
    """Return whether every tensor of a model has values, unlike those of the meta device."""
    others = (value for module in model.modules() for value in vars(module).values())
    tensors = chain(model.parameters(), model.buffers(), others)
    return not any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors)


def _shape(value: Any) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__
