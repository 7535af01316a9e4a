"""Reading and writing of videos by PyAV, frame by frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ita.errors import UserError, reason_of
from ita.extras import optional_module
from ita.files import written_whole

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
# H.264 with a quality that hides its artifacts, in the only pixel format that all players decode.
CODEC, PIXEL_FORMAT, OPTIONS = "libx264", "yuv420p", {"crf": "18"}
# Of videos that do not say how many frames they have per second.
DEFAULT_RATE = Fraction(25)


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        image: uint8 [H, W, 3] RGB, upright.
        time: seconds since the first frame.
    """

    image: np.ndarray
    time: Fraction


class Video:
    """A video that is being read.

    Attributes:
        rate: frames per second, on average.
        num_frames: number of frames by the file's header, which may be wrong; 0 if unknown.
    """

    def __init__(self, path: Path, container: "av.container.InputContainer") -> None:
        self._path, self._container = path, container
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or DEFAULT_RATE
        seconds = Fraction(container.duration or 0, 1_000_000)
        self.num_frames = self._stream.frames or round(seconds * self.rate)

    def frames(self) -> Iterator[Frame]:
        """Decode the frames in their order.

        Raises:
            UserError: the video is damaged or has no frames.
        """
        start, number = None, 0
        try:
            for number, frame in enumerate(self._container.decode(self._stream), start=1):
                time = Fraction(number - 1) / self.rate
                if frame.pts is not None and frame.time_base is not None:
                    time = frame.pts * frame.time_base
                start = time if start is None else start
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                yield Frame(np.ascontiguousarray(pixels), time - start)
        except _errors() as error:
            raise _unreadable(self._path, error) from error
        if not number:
            raise UserError(f"cannot read video {self._path}: it has no frames")


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video file for reading.

    Raises:
        UserError: the file is missing, damaged or has no video, or PyAV is not installed.
    """
    try:
        container = _av().open(str(path))
    except _errors() as error:
        raise _unreadable(path, error) from error
    with container:
        if not container.streams.video:
            raise UserError(f"cannot read video {path}: it has no pictures, only sound")
        yield Video(path, container)


class VideoWriter:
    """Encodes frames of one size; see :func:`write_video`."""

    def __init__(self, container: "av.container.OutputContainer", rate: Fraction) -> None:
        self._container, self._rate = container, rate
        self._stream: Any = None
        self._last = -1

    def write(self, frame: Frame) -> None:
        """Append a frame, later than the last one. A row or column is added to odd sizes.

        Raises:
            UserError: the frame has another size than the first.
        """
        height, width = frame.image.shape[:2]
        pixels = np.pad(frame.image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._container.add_stream(CODEC, rate=self._rate, options=OPTIONS)
            self._stream.pix_fmt = PIXEL_FORMAT
            self._stream.height, self._stream.width = pixels.shape[:2]
            self._stream.codec_context.time_base = Fraction(1, 90000)
        elif (self._stream.height, self._stream.width) != pixels.shape[:2]:
            raise UserError(
                f"a frame of {width} x {height} pixels follows others of {self._stream.width} x "
                f"{self._stream.height}; cut the video where its size changes"
            )
        encoded = _av().VideoFrame.from_ndarray(pixels, format="rgb24")
        encoded.time_base = self._stream.codec_context.time_base
        self._last = encoded.pts = max(round(frame.time / encoded.time_base), self._last + 1)
        self._container.mux(self._stream.encode(encoded))

    def flush(self) -> None:
        """Write the frames that the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())


@contextmanager
def write_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Write an ``.mp4`` file; it appears under its name when it is complete.

    Args:
        path: the file.
        rate: frames per second, on average.

    Raises:
        UserError: the file cannot be written, or PyAV is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        try:
            with _av().open(str(partial), "w", format="mp4") as container:
                writer = VideoWriter(container, rate)
                yield writer
                writer.flush()
        except _errors() as error:
            raise UserError(f"cannot write {path}: {_reason(error)}") from error


def _av() -> Any:
    return optional_module("av", "video", extra="video")


def _errors() -> tuple[type[BaseException], ...]:
    return (_av().error.FFmpegError, OSError)


def _unreadable(path: Path, error: BaseException) -> UserError:
    return UserError(f"cannot read video {path}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    return reason_of(error)
