"""The one exception whose message is meant for the person at the keyboard."""

# Packages that are not on PyPI, and hence no dependencies of this one.
INSTALLED_APART = ("detectron2", "panopticapi")


class UserError(Exception):
    """Something outside the code is wrong: a file, a config key, a class list.

    The message is one line: what is wrong, where, and what to do. Commands print it without a
    traceback and exit with a non-zero code.
    """


def missing_module(error: ModuleNotFoundError) -> str:
    """Message about a package of ``INSTALLED_APART`` that cannot be imported; "" for others."""
    package = (error.name or "").partition(".")[0]
    if package not in INSTALLED_APART:
        return ""
    return f"{package} is not installed; install it with: ita install-detectron2"
