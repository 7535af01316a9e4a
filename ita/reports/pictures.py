"""Pictures of image, prediction and ground truth side by side over a legend of the classes."""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from PIL import Image, ImageDraw

from ita.classes import ClassList, palette
from ita.data.reading import (
    load_semantic_label,
    orientation_of_record,
    read_image,
    read_panoptic_ids,
)
from ita.errors import UserError
from ita.files import write_atomically
from ita.reports.fonts import Lettering, warn_of_layout

# Longest side of a panel in pixels: small images are enlarged by an integer factor, large reduced.
MIN_PANEL, MAX_PANEL = 360, 800
MARGIN = 8
COLOR_STRENGTH = 0.75
BACKGROUND, INK, FAINT_INK = (255, 255, 255), (20, 20, 20), (120, 120, 120)
VOID_COLOR = (40, 40, 40)
OUTLINE_COLOR = (255, 255, 255)
MAX_LEGEND_CLASSES = 60
# Formats of pictures by the suffix of their files.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Of JPEG and WebP.
QUALITY = 90


@dataclass(frozen=True)
class Panel:
    """A label map of the image.

    Attributes:
        title: title over the panel.
        classes: int64 [h, w] class ids; -1 without a class (void, ignored).
        segments: int [h, w] segment ids whose borders are drawn, or None.
    """

    title: str
    classes: np.ndarray
    segments: np.ndarray | None = None


def write_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write an RGB image, uint8 [H, W, 3], atomically, in the format of the path's suffix.

    Raises:
        UserError: the suffix is not one of ``FORMATS``, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"cannot write {path}: pictures are {', '.join(FORMATS)} files")
    write_atomically(path, encode_picture(picture, suffix))


def encode_picture(picture: np.ndarray, suffix: str) -> bytes:
    """Encode an RGB image, uint8 [H, W, 3], as a file with one of the suffixes of ``FORMATS``."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, FORMATS[suffix], quality=QUALITY)
    return buffer.getvalue()


def draw_picture(
    record: Mapping[str, Any],
    prediction: Mapping[str, Any],
    metadata: Metadata,
    class_list: ClassList | None = None,
    seen: Sequence[bool] | None = None,
) -> np.ndarray:
    """Draw image | prediction | ground truth (if any) over a legend of the classes present.

    Args:
        record: record with ``file_name`` and annotation fields.
        prediction: model output for the record; colors are from ``label_map`` [h, w] or else from
            ``panoptic_seg``, whose segments are outlined if it exists.
        metadata: metadata of the data set: ignore_label, stuff_classes, stuff_colors.
        class_list: names in the legend, with the label id where a name repeats; by default those
            of the data set.
        seen: [C], whether each class is seen in training; the legend marks unseen ones.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    class_list = class_list or metadata.class_list
    names = distinct_names(class_list.names, class_list.label_ids)
    panels = [_predicted_panel(prediction)]
    if "sem_seg_file_name" in record or "pan_seg_file_name" in record:
        panels.append(_ground_truth_panel(record, metadata))
    colors = np.array(metadata.stuff_colors, dtype=np.uint8)
    return draw_panels(read_image(record["file_name"]), panels, names, colors, seen)


def draw_segmentation(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    segments: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a label map over its image, with a legend of the classes present.

    Args:
        image: uint8 [H, W, 3] RGB.
        labels: int64 [H, W] indices into ``names``; -1 without a class.
        names: names of all classes; the legend adds the index where a name repeats.
        segments: int [H, W] segment ids whose borders are drawn, or None.

    Returns:
        uint8 [H', W', 3] RGB.
    """
    colors = np.array(palette(len(names)), dtype=np.uint8)
    panel = Panel("segmentation", labels, segments)
    return draw_panels(image, [panel], distinct_names(names, range(len(names))), colors)


def draw_frame(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    segments: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a label map over a frame of a video, with the names of the classes in their regions.

    Args:
        image: uint8 [H, W, 3] RGB.
        labels: int64 [H, W] indices into ``names``; -1 without a class.
        names: names of all classes.
        segments: int [H, W] segment ids whose borders are drawn, or None.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    warn_of_layout(names)
    colors = np.array(palette(len(names)), dtype=np.uint8)
    painted = Image.fromarray(_paint(Image.fromarray(image), Panel("", labels, segments), colors))
    draw = ImageDraw.Draw(painted)
    lettering = Lettering(max(12, min(image.shape[:2]) // 30))
    for class_id in np.unique(labels[labels >= 0]):
        x, y, radius = _inner_circle(labels == class_id)
        name = names[class_id]
        if 2 * radius >= lettering.size:
            left = min(max(x - lettering.length(name) / 2, 0), image.shape[1])
            lettering.draw(draw, (left, y), name, INK, outline=BACKGROUND)
    return np.asarray(painted)


def _inner_circle(mask: np.ndarray) -> tuple[int, int, float]:
    """Center (x, y) and radius, in pixels, of a largest circle within a mask, bool [H, W]."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
    _, radius, _, (x, y) = cv2.minMaxLoc(distance)
    return x - 1, y - 1, radius


def distinct_names(names: Sequence[str], ids: Sequence[int]) -> list[str]:
    """Names of the classes, followed by their ids where several classes have the same name."""
    counts = Counter(names)
    pairs = zip(names, ids, strict=True)
    return [f"{name} ({i})" if counts[name] > 1 else name for name, i in pairs]


def draw_panels(
    pixels: np.ndarray,
    panels: Sequence[Panel],
    names: list[str],
    colors: np.ndarray,
    seen: Sequence[bool] | None = None,
) -> np.ndarray:
    """Draw an image and its label maps in a row over a legend of the classes present.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        panels: label maps, all of the same size.
        names: names of the C classes, all different.
        colors: uint8 [C, 3] RGB colors of the classes.
        seen: [C], whether each class is seen in training; the legend marks unseen ones.

    Returns:
        uint8 [H', W', 3] RGB.
    """
    warn_of_layout(names)
    image = Image.fromarray(pixels)
    height, width = panels[0].classes.shape
    size = _panel_size(width, height)
    enlarged = size[0] > width
    image = image.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
    tiles = [("image", np.asarray(image))]
    tiles += [(panel.title, _paint(image, panel, colors)) for panel in panels]
    return _compose(tiles, legend_entries(panels, names, colors, seen))


def _predicted_panel(prediction: Mapping[str, Any]) -> Panel:
    segments = None
    if "panoptic_seg" in prediction:
        segments = prediction["panoptic_seg"][0].cpu().numpy()
    if "label_map" in prediction:
        return Panel("prediction", prediction["label_map"].cpu().numpy(), segments)
    segment_map, infos = prediction["panoptic_seg"]
    classes = np.full(segment_map.shape, -1)
    for info in infos:
        classes[segments == info["id"]] = info["category_id"]
    return Panel("prediction", classes, segments)


def _ground_truth_panel(record: Mapping[str, Any], metadata: Metadata) -> Panel:
    classes = load_semantic_label(record, metadata).astype(np.int64)
    classes[classes == metadata.ignore_label] = -1
    segments = None
    if "pan_seg_file_name" in record:
        orientation = orientation_of_record(record, metadata)
        segments = read_panoptic_ids(record["pan_seg_file_name"], orientation)
    return Panel("ground truth", classes, segments)


def _panel_size(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    factor = min(math.ceil(MIN_PANEL / longest), MAX_PANEL / longest)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _resize_ids(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map of ids to ``size`` (width, height) by nearest neighbor."""
    width, height = size
    rows = (np.arange(height) * 2 + 1) * ids.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * ids.shape[1] // (2 * width)
    return ids[rows[:, None], columns]


def _paint(image: Image.Image, panel: Panel, colors: np.ndarray) -> np.ndarray:
    """Blend the panel's colors with the gray image and draw the segment borders."""
    classes = _resize_ids(panel.classes, image.size)
    # The last row is the color of void, whose id is -1.
    table = np.concatenate([colors, [VOID_COLOR]]).astype(np.float32)
    gray = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    painted = COLOR_STRENGTH * table[classes] + (1 - COLOR_STRENGTH) * gray
    painted = painted.round().astype(np.uint8)
    if panel.segments is not None:
        painted[_borders(_resize_ids(panel.segments, image.size))] = OUTLINE_COLOR
    return painted


def _borders(ids: np.ndarray) -> np.ndarray:
    """Bool [h, w]: pixels whose right or lower neighbor has another id."""
    borders = np.zeros(ids.shape, dtype=bool)
    borders[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    borders[:-1] |= ids[:-1] != ids[1:]
    return borders


LegendEntry = tuple[tuple[int, int, int], str, str]  # color, name, note


def legend_entries(
    panels: Sequence[Panel],
    names: list[str],
    colors: np.ndarray,
    seen: Sequence[bool] | None = None,
) -> list[LegendEntry]:
    """List the classes present in any panel, largest first, noting those absent from a panel."""
    counts = np.stack(
        [np.bincount(p.classes[p.classes >= 0], minlength=len(names)) for p in panels]
    )
    total = counts.sum(axis=0)
    entries: list[LegendEntry] = []
    for class_id in np.argsort(-total, kind="stable"):
        if total[class_id]:
            found = [p.title for p, c in zip(panels, counts, strict=True) if c[class_id]]
            note = "" if len(found) == len(panels) else f"{found[0]} only"
            name = names[class_id]
            name = name if seen is None or seen[class_id] else f"{name} (unseen)"
            red, green, blue = map(int, colors[class_id])
            entries.append(((red, green, blue), name, note))
    hidden = len(entries) - MAX_LEGEND_CLASSES
    if hidden > 0:
        entries[MAX_LEGEND_CLASSES:] = [(BACKGROUND, f"and {hidden} more", "")]
    if any((p.classes < 0).any() for p in panels):
        entries.append((VOID_COLOR, "no class", ""))
    return entries


def _compose(tiles: list[tuple[str, np.ndarray]], entries: list[LegendEntry]) -> np.ndarray:
    """Draw titles, tiles [h, w, 3] in a row, and the legend in columns below them."""
    height, width = tiles[0][1].shape[:2]
    size = max(13, min(18, width // 32))
    lettering, line = Lettering(size), round(size * 1.5)
    widths = [_offset(lettering, name, note) + lettering.length(note) for _, name, note in entries]
    column = math.ceil(max(widths, default=0)) + 2 * line
    total_width = max(len(tiles) * (width + MARGIN), column) + MARGIN
    columns = max(1, (total_width - MARGIN) // column)
    rows = math.ceil(len(entries) / columns)
    canvas = Image.new(
        "RGB", (total_width, line + height + 2 * MARGIN + rows * line + MARGIN), BACKGROUND
    )
    draw = ImageDraw.Draw(canvas)
    for number, (title, tile) in enumerate(tiles):
        left = MARGIN + number * (width + MARGIN)
        lettering.draw(draw, (left, line // 2 + MARGIN // 2), title, INK)
        canvas.paste(Image.fromarray(tile), (left, line + MARGIN // 2))
    top = line + height + 2 * MARGIN
    for number, entry in enumerate(entries):
        left = MARGIN + number // rows * column
        _draw_entry(draw, entry, left, top + number % rows * line, line, lettering)
    return np.asarray(canvas)


def _draw_entry(
    draw: ImageDraw.ImageDraw,
    entry: LegendEntry,
    left: int,
    top: int,
    line: int,
    lettering: Lettering,
) -> None:
    color, name, note = entry
    swatch = (left, top + 2, left + line - 4, top + line - 3)
    draw.rectangle(swatch, fill=color, outline=FAINT_INK if color != BACKGROUND else None)
    text, middle = left + line + 2, top + line // 2
    lettering.draw(draw, (text, middle), name, INK)
    lettering.draw(draw, (text + _offset(lettering, name, note), middle), note, FAINT_INK)


def _offset(lettering: Lettering, name: str, note: str) -> float:
    """Where the note of a name starts, in pixels from the start of the name."""
    return lettering.length(f"{name}  " if note else name)
