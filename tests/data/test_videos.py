"""Videos, read and written."""

from fractions import Fraction

import numpy as np
import pytest

from ita.data.videos import Frame, open_video, write_video
from ita.errors import UserError
from tests.videos import make_video

av = pytest.importorskip("av")


def read(path):
    with open_video(path) as video:
        return video.num_frames, video.rate, [*video.frames()]


def gray(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


def test_frames_are_read_back(tmp_path):
    path, times = tmp_path / "new" / "a.mp4", [Fraction(i, 10) for i in (0, 1, 4)]
    with write_video(path, Fraction(10)) as writer:
        for value, time in zip((20, 120, 220), times, strict=True):
            writer.write(Frame(gray(value), time))
    count, _, frames = read(path)
    assert count == len(frames) == 3
    assert [frame.time for frame in frames] == times
    for frame, value in zip(frames, (20, 120, 220), strict=True):
        assert frame.image.shape == (48, 64, 3)
        assert abs(int(frame.image.mean()) - value) <= 3


def test_odd_sizes_gain_a_row_and_a_column(tmp_path):
    with write_video(tmp_path / "a.mp4", Fraction(10)) as writer:
        writer.write(Frame(gray(90, 47, 63), Fraction(0)))
    _, _, (frame,) = read(tmp_path / "a.mp4")
    assert frame.image.shape == (48, 64, 3)
    assert abs(frame.image.astype(int) - 90).max() <= 3


def test_frames_are_upright(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 255
    make_video(tmp_path / "a.mp4", [image], rotation=90)
    _, _, (frame,) = read(tmp_path / "a.mp4")
    assert frame.image.shape == (64, 48, 3)
    # Turned counterclockwise: what was left is below.
    assert frame.image[:24].mean() < 10
    assert frame.image[40:].mean() > 245


def write(path, frames):
    with write_video(path, Fraction(10)) as writer:
        for number, frame in enumerate(frames):
            writer.write(Frame(frame, Fraction(number, 10)))


def test_nothing_is_left_of_a_video_that_fails(tmp_path):
    with pytest.raises(UserError, match="32 x 48 pixels follows others of 64 x 48"):
        write(tmp_path / "a.mp4", [gray(90), gray(90, 48, 32)])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    for name in ("text.mp4", "empty.mp4", "sound.mp4", "missing.mp4"):
        with pytest.raises(UserError, match=rf"^cannot read video .*{name}: .+$"):
            read(tmp_path / name)


def test_a_cut_off_video_ends_early(tmp_path):
    path = tmp_path / "a.mkv"
    make_video(path, [np.random.default_rng(i).integers(0, 255, (48, 64, 3)) for i in range(8)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, _, frames = read(path)
    assert 0 < len(frames) < 8
