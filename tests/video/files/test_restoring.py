"""Video files keep every frame and its time; a frame that fails is kept as it came."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import Restorer

# Neither the first time nor the intervals are what a fixed rate would give.
TIMES = (5, 7, 8, 12, 13, 20, 21, 22, 30, 31)


@pytest.fixture
def clip(tmp_path):
    """A lossless file whose frames come at uneven times, each of another gray."""
    path = tmp_path / "clip.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for number, time in enumerate(TIMES):
            pixels = np.full((48, 64, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path):
    with av.open(path) as container:
        return [
            (float(frame.pts * frame.time_base), float(frame.to_ndarray(format="rgb24").mean()))
            for frame in container.decode(video=0)
        ]


def test_every_frame_keeps_its_place_and_its_time(clip, tmp_path):
    done = restore_video(clip, Restorer({"null": NullRunner}, "null"), tmp_path / "out")
    before, after = decoded(clip), decoded(done.output)
    assert done.frames == len(after) == len(before) == len(TIMES)
    assert done.failed == 0
    for (time, gray), (kept_time, kept_gray) in zip(before, after, strict=True):
        assert kept_time - after[0][0] == pytest.approx(time - before[0][0], abs=2e-3)
        assert kept_gray == pytest.approx(gray, abs=4.0)


def test_a_frame_that_fails_is_kept_as_it_came_and_counted(clip, tmp_path):
    def broken():
        return NullRunner(failure=EngineError("no more memory"), fails_at=4)

    done = restore_video(clip, Restorer({"broken": broken}, "broken"), tmp_path / "out")
    assert (done.frames, done.failed) == (len(TIMES), len(TIMES) - 3)
    assert len(decoded(done.output)) == len(TIMES)


def test_the_source_is_never_replaced(clip):
    before = clip.read_bytes()
    with pytest.raises(OptionError, match="choose another folder"):
        restore_video(clip, Restorer({"null": NullRunner}, "null"), clip.parent)
    assert clip.read_bytes() == before
