"""Preparation: from downloaded data sets to the folders that training and evaluation read.

One module per data set describes its outputs (``plan``); ``jobs`` makes them. The command is
``ita datasets prepare``.
"""

from typing import NamedTuple


class Preparation(NamedTuple):
    """A data set that can be prepared.

    Attributes:
        module: of this package, with a function ``plan``.
        summary: one line.
        files: what is read and written.
    """

    module: str
    summary: str
    files: str
