"""HTML of the page's parts, from templates that escape all values."""

import functools
import json

import numpy as np
from PIL import Image

from ita.errors import UserError
from ita.reports.pages import image_uri, render
from ita.reports.pictures import encode_picture
from ita.web.answering import Answer
from ita.web.regions import Regions, regions_of

# Longest side of the picture on the page, in pixels; files for download have the image's size.
MAX_SIDE = 1024
# Dominant categories that are listed.
MAX_DOMINANT = 8

_render = functools.partial(render, package="ita.web")


def render_answer(answer: Answer) -> str:
    """Render the picture, the legend and the dominant categories of an answer."""
    segmentation = answer.segmentation
    regions = regions_of(segmentation)
    height, width = regions.ids.shape
    return _render(
        "answer.html.jinja",
        width=width,
        height=height,
        image=_data_url(_reduce(segmentation.image, Image.Resampling.LANCZOS), ".webp"),
        map=_data_url(_reduce(encode_map(regions), Image.Resampling.NEAREST), ".png"),
        regions=json.dumps({"names": regions.names, "colors": regions.colors}),
        scored=regions.scores is not None,
        legend=regions.legend,
        dominant=segmentation.dominant[:MAX_DOMINANT],
    )


def render_status(answer: Answer) -> str:
    """Render what was done, in a sentence."""
    segmentation = answer.segmentation
    return _render(
        "status.html.jinja",
        error="",
        size=segmentation.image.shape[1::-1],
        classes=len(segmentation.names),
        segments=None if segmentation.segments is None else len(segmentation.segments),
        seconds=answer.seconds,
        reused=answer.reused,
    )


def render_error(error: UserError) -> str:
    """Render an error in words."""
    return _render("status.html.jinja", error=str(error))


def encode_map(regions: Regions) -> np.ndarray:
    """Encode the regions as an image, uint8 [H, W, 3].

    Returns:
        The region's number, below 65,536, is red + 256 green; blue is its score in 255ths.
    """
    scores = np.zeros(regions.ids.shape) if regions.scores is None else regions.scores
    blue = np.round(255 * scores.clip(0, 1))
    return np.stack([regions.ids & 255, regions.ids >> 8, blue], axis=-1).astype(np.uint8)


def _reduce(pixels: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    """Reduce an image to ``MAX_SIDE``; the same size always yields the same smaller size."""
    height, width = pixels.shape[:2]
    factor = MAX_SIDE / max(height, width)
    if factor >= 1:
        return pixels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, resampling))


def _data_url(pixels: np.ndarray, suffix: str) -> str:
    return image_uri(encode_picture(pixels, suffix), suffix[1:])
