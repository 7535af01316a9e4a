"""Segmentation of image and video files into files: label maps, pictures and JSON."""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ita.data.reading import read_image
from ita.data.videos import VIDEO_SUFFIXES, Frame, open_video, write_video
from ita.errors import UserError
from ita.files import folder_written_whole, write_atomically, written_whole
from ita.predictor import Segmentation
from ita.progress import Progress, no_progress
from ita.reports.label_maps import describe_label_map
from ita.reports.pictures import draw_frame
from ita.shortages import explained

CLASSES_FILE = "classes.json"
# Label maps of a video are files of this form in a folder.
FRAME_NAME = "{:06d}.png"
FRAME_PATTERN = re.compile(r"\d{6,}\.png")

LESS_MEMORY = (
    "make it smaller, or INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST in the config, such as 640 "
    "and 1066"
)

# Segments an image, uint8 RGB [H, W, 3].
SegmentImage = Callable[[np.ndarray], Segmentation]


@dataclass(frozen=True)
class Outputs:
    """Files that are written for an image or a video.

    Attributes:
        label_map: PNG of class indices; of a video, a folder with one for each frame.
        overlay: picture of the classes over the image, ``.png`` or ``.mp4``.
        result: classes, dominant categories and segments: ``.json``, or for a video ``.jsonl`` with
            a line for each frame.
    """

    label_map: Path
    overlay: Path
    result: Path


def plan_outputs(inputs: Sequence[Path], folder: Path) -> dict[Path, Outputs]:
    """Name the files to write for each image and video.

    Raises:
        UserError: an output is an input, the list of classes, or the output of two inputs.
    """
    outputs = {path: _outputs_of(path, folder) for path in inputs}
    given = {path.resolve() for path in inputs}
    writers: dict[Path, Path] = {}
    for path, files in outputs.items():
        for file in vars(files).values():
            if file.resolve() in given:
                raise UserError(f"{file} would replace an input; choose another --output")
            if file == folder / CLASSES_FILE:
                raise UserError(f"{path} would write {file}, the list of classes; rename it")
            if (other := writers.setdefault(file, path)) is not path:
                raise UserError(
                    f"{other} and {path} would write the same file {file}; segment them into "
                    "different folders"
                )
    return outputs


def _outputs_of(path: Path, folder: Path) -> Outputs:
    stem = path.stem
    if is_video(path):
        return Outputs(folder / stem, folder / f"{stem}_overlay.mp4", folder / f"{stem}.jsonl")
    return Outputs(folder / f"{stem}.png", folder / f"{stem}_overlay.png", folder / f"{stem}.json")


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def segment_file(
    path: Path, outputs: Outputs, segment: SegmentImage, progress: Progress = no_progress
) -> dict[str, Any]:
    """Segment an image or a video and write the results.

    Args:
        path: an image, or a video by its suffix.
        outputs: the files to write.
        segment: segments an image.
        progress: shows the progress of a video.

    Returns:
        For JSON: the paths, as ``image`` or ``video``, ``label_map``, ``overlay`` and ``result``;
        of an image, see :func:`describe_label_map`; of a video, ``frames``, their number.

    Raises:
        UserError: the file cannot be read, or the results cannot be written.
    """
    paths = {name: str(file) for name, file in vars(outputs).items()}
    with explained(LESS_MEMORY, str(path)):
        if is_video(path):
            return {"video": str(path), **paths, **_segment_video(path, outputs, segment, progress)}
        return {"image": str(path), **paths, **_segment_image(path, outputs, segment)}


def _segment_image(path: Path, outputs: Outputs, segment: SegmentImage) -> dict[str, Any]:
    result = segment(read_image(str(path)))
    result.to_label_png(outputs.label_map)
    result.save(outputs.overlay)
    write_atomically(outputs.result, f"{json.dumps(result.to_json())}\n".encode())
    return describe_label_map(result.label_map, result.names)


def _segment_video(
    path: Path, outputs: Outputs, segment: SegmentImage, progress: Progress
) -> dict[str, Any]:
    _check_replaceable(outputs.label_map)
    number = 0
    with ExitStack() as stack:
        video = stack.enter_context(open_video(path))
        folder = stack.enter_context(folder_written_whole(outputs.label_map, replace=True))
        writer = stack.enter_context(write_video(outputs.overlay, video.rate))
        lines = stack.enter_context(written_whole(outputs.result)).open("w", encoding="utf-8")
        stack.enter_context(lines)
        advance = stack.enter_context(progress(f"segmenting {path}", video.num_frames, "frames"))
        for number, frame in enumerate(video.frames(), start=1):
            result = segment(frame.image)
            result.to_label_png(folder / FRAME_NAME.format(number - 1))
            classes, segment_ids = result.drawn_maps()
            drawn = draw_frame(frame.image, classes, result.names, segment_ids)
            writer.write(Frame(drawn, frame.time))
            described = {"frame": number - 1, "seconds": float(frame.time), **result.to_json()}
            lines.write(f"{json.dumps(described)}\n")
            advance(1)
    return {"frames": number}


def _check_replaceable(folder: Path) -> None:
    """Refuse a folder with anything but the label maps of an earlier run."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another --output")
    if others := sorted(p.name for p in folder.iterdir() if not FRAME_PATTERN.fullmatch(p.name)):
        raise UserError(
            f"{folder} has other content ({others[0]}) than label maps of frames; choose another "
            "--output"
        )
