"""The one exception whose message is meant for the person at the keyboard."""

# Packages that are not on PyPI, and hence no dependencies of this one.
INSTALLED_APART = ("detectron2", "panopticapi")


class UserError(Exception):
    """Something outside the code is wrong: a file, a config key, a class list.

    The message is one line: what is wrong, where, and what to do. Commands print it without a
    traceback and exit with a non-zero code.
    """


def missing_module(name: str) -> str:
    """Message about a package of ``INSTALLED_APART`` that cannot be imported."""
    return f"{name} is not installed; install it with: ita install-detectron2"
