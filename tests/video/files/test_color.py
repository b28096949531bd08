"""Color bars through every source and sink: 601 and 709, limited and full range."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from mirnet_edge.errors import OptionError, VideoError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.decoding import (
    SWSCALE_MATRIX,
    SWSCALE_RANGE,
    RgbDecoder,
    exact_conversion_flags,
    read_color_tags,
)
from mirnet_edge.video.files.encoding import EncodingOptions, VideoWriter
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.frames import ColorTags, DisplayedFrame, LiveStatus, VideoFrame
from mirnet_edge.video.live.recording import Recorder
from mirnet_edge.video.live.sinks import Snapshots
from mirnet_edge.video.live.sources import CameraSource, FileSource
from mirnet_edge.video.restorer import single_runner_restorer

av = pytest.importorskip("av")

BARS = np.array(
    [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0),
     (0, 0, 255), (0, 0, 0), (128, 128, 128), (191, 30, 77), (8, 8, 12), (40, 20, 10)], np.uint8,
)  # fmt: skip
WIDE = 32
COLORS = [
    ColorTags(matrix=matrix, range=range_, transfer=1, primaries=1)
    for matrix in ("bt601", "bt709")
    for range_ in ("limited", "full")
]
LOSSLESS = {"crf": "0", "preset": "ultrafast"}


def bars():
    return np.repeat(np.repeat(BARS[None], 64, 0), WIDE, 1)


def middles(pixels):
    """Return each bar's color, away from the edges where chroma is shared."""
    return pixels[32, WIDE // 2 :: WIDE].astype(int)


def assert_same(pixels, within=2):
    assert np.abs(middles(pixels) - BARS).max() <= within


def written(path, color, frames=3):
    options = {"height": 64, "width": bars().shape[1], "color": color, "quality": LOSSLESS}
    options |= {"time_base": Fraction(1, 30), "rate": Fraction(30)}
    with VideoWriter(path, EncodingOptions(**options)) as writer:
        for pts in range(frames):
            writer.write(bars(), pts)
    return path


def ids(color):
    return f"{color.matrix} {color.range}"


@pytest.mark.parametrize("color", COLORS, ids=ids)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_file_source_reads_the_colors_of_the_writer(suffix, color, tmp_path):
    path = written(tmp_path / f"bars{suffix}", color)
    with FileSource(path) as source:
        frame = source.read()
    assert frame.color == color
    assert_same(frame.pixels)


@pytest.mark.parametrize("color", COLORS, ids=ids)
def test_tags_and_luma_follow_the_standard(color, tmp_path):
    path = written(tmp_path / "bars.mp4", color)
    with av.open(str(path)) as container:
        frame = next(container.decode(container.streams.video[0]))
    assert int(frame.colorspace) == {"bt601": 6, "bt709": 1}[color.matrix]
    assert int(frame.color_range) == {"limited": 1, "full": 2}[color.range]
    luma = np.frombuffer(frame.planes[0], np.uint8).reshape(64, -1)[32, WIDE // 2 :: WIDE]
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[color.matrix]
    exact = BARS @ np.array([kr, 1 - kr - kb, kb])
    if color.range == "limited":
        exact = 16 + exact * 219 / 255
    assert np.abs(luma[: len(BARS)] - exact).max() <= 1


@pytest.mark.parametrize("color", COLORS, ids=ids)
def test_a_restored_file_has_the_colors_and_tags_of_its_source(color, tmp_path):
    path = written(tmp_path / "bars.mp4", color)
    done = restore_video(path, single_runner_restorer(NullRunner()), tmp_path / "out")
    with FileSource(done.output) as source:
        frame = source.read()
    assert frame.color == color
    assert_same(frame.pixels, within=3)  # two codings, each of which rounds, and crf 16


@pytest.mark.parametrize("size", [(64, 48), (63, 45), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["yuv420p", "yuvj422p", "yuv444p", "nv12", "yuv420p10le", "rgb24"])
def test_pixels_equal_exact_swscale_rgb_to_one_level(kind, size):
    from av.video.reformatter import VideoReformatter

    frame = av.VideoFrame(*size, kind)
    for plane in frame.planes:
        noise = np.random.default_rng(0).integers(0, 256, plane.buffer_size, np.uint8)
        if kind.endswith("10le"):
            noise = (noise.view(np.uint16) % 1024).view(np.uint8)
        plane.update(noise.tobytes())
    color = read_color_tags(frame)
    expected = VideoReformatter().reformat(
        frame, format="rgb24", interpolation=exact_conversion_flags(),
        dst_color_range=SWSCALE_RANGE["full"],
        src_colorspace=SWSCALE_MATRIX[color.matrix],
        src_color_range=SWSCALE_RANGE["full" if frame.format.is_rgb else color.range],
    )  # fmt: skip
    pixels = RgbDecoder().pixels(frame)
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - expected.to_ndarray()).max() <= 1


def test_color_defaults_follow_the_frame_size():
    small, large = av.VideoFrame(640, 480, "yuv420p"), av.VideoFrame(720, 1280, "yuv420p")
    assert read_color_tags(small).matrix == "bt601"
    assert read_color_tags(large).matrix == "bt709"
    assert read_color_tags(av.VideoFrame(64, 48, "yuvj420p")).range == "full"
    assert read_color_tags(av.VideoFrame(64, 48, "rgb24")).range == "limited"


class FakeDevice:
    """A camera as OpenCV gives it: BGR, and gone after some frames."""

    def __init__(self, pixels, frames=1, fps=30.0, opened=True):
        self.pixels, self.left, self.fps, self.opened = pixels, frames, fps, opened
        self.released = False

    def isOpened(self):  # noqa: N802
        return self.opened

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        return True, self.pixels[..., ::-1]

    def get(self, property_):
        return self.fps

    def release(self):
        self.released = True


def test_a_cameras_frames_are_rgb():
    device = FakeDevice(bars())
    with CameraSource("camera 0", lambda: device) as source:
        assert_same(source.read().pixels, within=0)
        assert source.frame_time_s == pytest.approx(1 / 30)
    assert device.released


def test_recordings_and_snapshots_have_the_displayed_colors(tmp_path):
    from mirnet_edge.images.files import read_image

    status = LiveStatus(
        fps=0, age_ms=0, age_p95_ms=0, restore_ms=0, captured=1, shown=1, dropped=0, failed=0,
        configuration="m", configurations=(), restoring=True, frozen=False, recording=True,
        snapshots=1, note="",
    )  # fmt: skip
    before = VideoFrame(pixels=bars(), index=0, captured_s=5.0)
    shown = DisplayedFrame(before=before, after=bars(), restored=True, status=status)
    saved = []
    with Recorder(tmp_path / "r.mkv") as recorder, Snapshots(tmp_path, saved.append) as snapshots:
        for sink in (recorder, snapshots):
            sink.show(shown)
            sink.show(shown)  # the same again: neither saved nor written twice
    with FileSource(tmp_path / "r.mkv") as source:
        assert_same(source.read().pixels, within=3)
        assert source.read() is None
    assert len(saved) == 2
    for path in saved:
        assert_same(read_image(path).frame, within=0)


def test_frames_of_another_size_are_refused_and_no_file_is_left(tmp_path):
    options = {"height": 64, "width": 64, "time_base": Fraction(1, 30), "rate": None}
    options["color"] = ColorTags()

    def write_both():
        with VideoWriter(tmp_path / "a.mp4", EncodingOptions(**options)) as writer:
            writer.write(np.zeros((64, 64, 3), np.uint8), 0)
            writer.write(bars(), 1)

    with pytest.raises(VideoError, match=r"expected frames of 64x64, found 384x64"):
        write_both()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match=r"ending in \.mp4"):
        VideoWriter(tmp_path / "a.gif", EncodingOptions(**options))
