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
            [n, P] in 0-1, of the dtype of the points.
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
        ids = self.index if self.count <= torch.iinfo(self.index.dtype).max else self.index.int()
        # All places outside the image are in no mask, and so is a border of the map: one pixel
        # before it and two after it.
        ids = F.pad(ids, (1, 2, 1, 2), value=self.count)
        stride = width + 3
        x = (points[..., 0] * frame[1] - 0.5).clamp_(-1, width)
        y = (points[..., 1] * frame[0] - 0.5).clamp_(-1, height)
        column, line = x.floor(), y.floor()
        x, y = x.sub_(column), y.sub_(line)
        pixel = (line.int() + 1) * stride + (column.int() + 1)
        reach = ids.numel() - stride - 1
        rows = rows.to(ids.dtype)[:, None]

        def inside(offset: int) -> Tensor:
            """Whether the pixels at an offset from the ones above left are in the masks."""
            # A shifted view, so that all four pixels around a point share its position.
            shifted = ids.flatten()[offset : offset + reach]
            return (shifted.index_select(0, pixel.flatten()).view_as(pixel) == rows).to(x.dtype)

        above = torch.lerp(inside(0), inside(1), x)
        below = torch.lerp(inside(stride), inside(stride + 1), x)
        return torch.lerp(above, below, y)


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
        return sample_at(self.masks[rows].to(points.dtype), points)


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


def at_least_float32(x: Tensor) -> Tensor:
    """Convert a floating-point tensor of lower precision to float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sample_at(images: Tensor, points: Tensor) -> Tensor:
    """Sample images [N, H, W] bilinearly at points [N, P, 2] in 0-1 -> [N, P]."""
    grid = (2 * points).sub_(1)[:, None]
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0, 0]


def sample_all_at(images: Tensor, points: Tensor) -> Tensor:
    """Sample all images [N, H, W] bilinearly at the same points [P, 2] in 0-1 -> [P, N]."""
    height, width = images.shape[-2:]
    columns, column_weights = _neighbors(points[:, 0] * width - 0.5, width)
    lines, line_weights = _neighbors(points[:, 1] * height - 0.5, height)
    # The four cells around each point: [P, 4].
    cells = (lines[:, :, None] * width + columns[:, None]).flatten(1)
    weights = (line_weights[:, :, None] * column_weights[:, None]).flatten(1).to(images.dtype)
    # With the images last, the values of a cell are one row to read.
    values = images.flatten(1).T.contiguous()
    return F.embedding_bag(cells, values, mode="sum", per_sample_weights=weights)


def _neighbors(x: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cells before and after each coordinate, int64 [P, 2], and their weights, 0 outside."""
    before = x.floor()[:, None]
    cells = torch.cat([before, before + 1], dim=1)
    weights = (1 - (x[:, None] - cells).abs()) * ((cells >= 0) & (cells < length))
    return cells.long().clamp_(0, length - 1), weights
