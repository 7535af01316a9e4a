"""Ground truth of the training losses: classes and masks, read only at sampled points."""

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Masks(Protocol):
    """M masks of an image [H, W]."""

    def __len__(self) -> int:
        """Number of masks, M."""

    def to(self, *args: Any, **kwargs: Any) -> "Masks":
        """Move to a device, with the arguments of ``Tensor.to``."""

    def sample(self, rows: Tensor, points: Tensor, frame: tuple[int, int]) -> Tensor:
        """Sample masks bilinearly at points, zeros outside the image.

        Args:
            rows: int64 [n], the masks to sample.
            points: [n, P, 2] or [1, P, 2], x and y in 0-1 of the frame.
            frame: (height, width) of the padded image, in pixels; the image is at its top left.

        Returns:
            float32 [n, P] in 0-1.
        """


class SegmentMap:
    """Disjoint masks of an image as one integer map, a byte per pixel instead of one per mask.

    Args:
        index: uint8 or int32 [H, W], the mask of each pixel; other values than 0 ... count-1 are
            in no mask.
        count: number of masks, M.
    """

    def __init__(self, index: Tensor, count: int) -> None:
        self.index, self.count = index, count

    def __len__(self) -> int:
        return self.count

    def to(self, *args: Any, **kwargs: Any) -> "SegmentMap":
        """Move to a device, with the arguments of ``Tensor.to``."""
        return SegmentMap(self.index.to(*args, **kwargs), self.count)

    def pin_memory(self) -> "SegmentMap":
        """Copy to pinned memory, from which copies to a GPU do not block."""
        return SegmentMap(self.index.pin_memory(), self.count)

    def dense(self) -> Tensor:
        """Return the masks, bool [M, H, W]."""
        return self.index == torch.arange(self.count, device=self.index.device)[:, None, None]

    def sample(self, rows: Tensor, points: Tensor, frame: tuple[int, int]) -> Tensor:
        """Sample masks bilinearly at points; see :meth:`Masks.sample`."""
        height, width = self.index.shape
        x, y = points[..., 0] * frame[1] - 0.5, points[..., 1] * frame[0] - 0.5
        columns, column_weights = _neighbors(x)
        lines, line_weights = _neighbors(y)
        # The four pixels around each point: [n, P, 2, 2].
        pixels = lines.clamp(0, height - 1)[..., None] * width
        pixels = pixels + columns.clamp(0, width - 1)[..., None, :]
        within = _within(lines, height)[..., None] & _within(columns, width)[..., None, :]
        inside = (self.index.flatten()[pixels] == rows[:, None, None, None]) & within
        weights = line_weights[..., None] * column_weights[..., None, :]
        return (inside * weights).sum(dim=(-2, -1))


def _neighbors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Cells before and after each coordinate, int64 [..., 2], and their bilinear weights."""
    before = x.floor()
    weight = x - before
    cells = torch.stack([before, before + 1], dim=-1).long()
    return cells, torch.stack([1 - weight, weight], dim=-1)


def _within(cells: Tensor, length: int) -> Tensor:
    return (cells >= 0) & (cells < length)


class DenseMasks:
    """Masks that may overlap.

    Args:
        masks: bool or float [M, H, W] in 0-1.
    """

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def to(self, *args: Any, **kwargs: Any) -> "DenseMasks":
        """Move to a device, with the arguments of ``Tensor.to``."""
        return DenseMasks(self.masks.to(*args, **kwargs))

    def sample(self, rows: Tensor, points: Tensor, frame: tuple[int, int]) -> Tensor:
        """Sample masks bilinearly at points; see :meth:`Masks.sample`."""
        height, width = self.masks.shape[-2:]
        x, y = points[..., 0] * (frame[1] / width), points[..., 1] * (frame[0] / height)
        points = torch.stack([x, y], dim=-1).expand(len(rows), -1, -1)
        return sample_at(self.masks[rows].float(), points)


class Target(NamedTuple):
    """Ground truth of one image.

    Attributes:
        labels: int64 [M] class ids.
        masks: M masks of the image without padding.
        frame: (height, width) of the padded images of the batch, in pixels.
    """

    labels: Tensor
    masks: Masks
    frame: tuple[int, int]

    def sample(self, rows: Tensor, points: Tensor) -> Tensor:
        """Sample masks at points; see :meth:`Masks.sample`."""
        return self.masks.sample(rows, points, self.frame)


def as_masks(masks: Masks | Tensor) -> Masks:
    """Wrap the masks of a record, which Detectron2's mappers give as a tensor."""
    return DenseMasks(masks) if isinstance(masks, Tensor) else masks


def sample_at(images: Tensor, points: Tensor) -> Tensor:
    """Sample images [N, H, W] bilinearly at points [N, P, 2] in 0-1 -> [N, P]."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0, :, 0]
