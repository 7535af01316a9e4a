"""The result of segmenting an image."""

from dataclasses import dataclass

import numpy as np

from ita.classes import ClassList


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Segmentation of an image into the classes of a class list.

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
