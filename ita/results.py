"""The label map of an image with its classes, as every runtime returns it."""

from dataclasses import dataclass

import numpy as np

from ita.classes import ClassList


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Class of each pixel of an image.

    Attributes:
        label_map: int64 [H, W] at the image's size, indices into ``names``.
        class_list: the C classes.
    """

    label_map: np.ndarray
    class_list: ClassList

    @property
    def names(self) -> tuple[str, ...]:
        """First synonym of each class."""
        return self.class_list.names
