"""A digest of everything that determines the text features of a CLIP."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from ita.modeling.clip import FrozenCLIP
from ita.modeling.clip_tokens import WarningTokenizer
from ita.modeling.text_cache import digest_of

# To be raised when names are encoded differently, beyond rounding.
VERSION = 1
# Texts that tokenizers of different vocabulary, cleaning or context length tokenize differently.
PROBES = ("A photo of 3 naïve cats' <red-blue> &amp; caf\u00e9_tables!", "x" * 50, "no " * 600)
# Threads that hash weights; each hashes 1.5 GB/s.
MAX_THREADS = 8


def text_identity(clip: FrozenCLIP) -> str:
    """Compute a digest of a CLIP's text tower and tokenizer, in hexadecimal.

    It covers class and settings of every module, type, shape and every byte of the weights, and
    what the tokenizer makes of some texts. It takes 0.4 s of one core for the 600 MB of ConvNeXt-L.
    """
    modules = {
        name: [f"{type(module).__module__}.{type(module).__qualname__}", _settings(module)]
        for name, module in clip.clip.named_modules()
        if not _is_of_images(name)
    }
    tensors = {
        name: tensor
        for named in (clip.clip.named_parameters(), clip.clip.named_buffers())
        for name, tensor in named
        if not _is_of_images(name)
    }
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        weights = dict(zip(tensors, pool.map(_tensor_digest, tensors.values()), strict=True))
    return digest_of([VERSION, open_clip.__version__, modules, weights, _tokenizer_digest(clip)])


def _is_of_images(name: str) -> bool:
    return name.partition(".")[0] == "visual"


def _settings(module: nn.Module) -> dict[str, Any]:
    """Settings that a module's weights do not show, such as its number of heads."""
    return {
        name: value
        for name, value in sorted(vars(module).items())
        if isinstance(value, bool | int | float | str)
        and not name.startswith("_")
        and name != "training"
    }


def _tensor_digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(values.data).hexdigest()
    return f"{tensor.dtype} {list(tensor.shape)} {digest}"


def _tokenizer_digest(clip: FrozenCLIP) -> str:
    tokenizer: Any = clip.tokenizer
    if isinstance(tokenizer, WarningTokenizer):  # which need not warn of the probes
        tokenizer = tokenizer.tokenizer
    kind = getattr(tokenizer, "__qualname__", type(tokenizer).__qualname__)
    return f"{kind} {_tensor_digest(tokenizer(list(PROBES)))}"
