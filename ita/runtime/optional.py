"""Import of libraries that only exported models need."""

import importlib
from types import ModuleType

from ita.errors import UserError


def optional_module(name: str, purpose: str) -> ModuleType:
    """Import a library of the extra ``onnx``.

    Args:
        name: the module, which has the name of its package.
        purpose: what needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{purpose} needs {error.name}, which is not installed: pip install {error.name} "
            "(or the extra: pip install '.[onnx]' in the checkout)"
        ) from error
