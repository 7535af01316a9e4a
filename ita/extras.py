"""Import of libraries that only the package's extras install."""

import importlib
from types import ModuleType

from ita.errors import UserError


def optional_module(name: str, purpose: str, extra: str = "onnx") -> ModuleType:
    """Import a library of an extra.

    Args:
        name: the module, which has the name of its package.
        purpose: what needs it, for the message.
        extra: the extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{purpose} needs {error.name}, which is not installed: pip install {error.name} "
            f"(or the extra: pip install '.[{extra}]' in the checkout)"
        ) from error
