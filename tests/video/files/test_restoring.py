"""Restored video files keep frames, times, audio and rotation; errors and damaged files."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.errors import EngineError, OptionError, VideoError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.recognition import is_video
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import Restorer, single_runner_restorer

av = pytest.importorskip("av")

CLIPS = Path(__file__).parents[4] / "shared" / "data" / "video"


@dataclass(frozen=True)
class Clip:
    """The options of a tiny clip."""

    name: str
    times: tuple[int, ...] = tuple(range(12))
    time_base: Fraction = Fraction(1, 30)
    codec: str = "libx264"
    size: tuple[int, int] = (48, 64)
    pix_fmt: str = "yuv420p"
    sound: str | None = None
    rotation: int = 0

    def __str__(self):
        return f"{self.name} {self.codec}"


CASES = [
    Clip("plain.mp4"),
    Clip("ntsc.mp4", tuple(1001 * i for i in range(12)), Fraction(1, 30_000)),
    Clip("variable.mp4", (0, 10, 11, 40, 41, 90, 200, 201, 350), Fraction(1, 600)),
    Clip("variable.mkv", (0, 33, 50, 51, 400, 433, 900), Fraction(1, 1000)),
    Clip("offset.mkv", tuple(range(500, 900, 33)), Fraction(1, 1000)),
    Clip("odd.mkv", size=(45, 63), pix_fmt="yuv444p"),
    Clip("sound.mp4", sound="aac"),
    Clip("sound.mkv", sound="flac"),
    Clip("sound.mov", sound="pcm_s16le"),
    Clip("rotated.mp4", rotation=90),
    Clip("rotated.mov", rotation=-90),
    Clip("old.avi", codec="mpeg4", sound="mp2"),
]


@pytest.fixture
def make_clip(tmp_path):
    def make(clip):
        path = tmp_path / "in" / clip.name
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            video = container.add_stream(clip.codec, rate=30)
            video.height, video.width = clip.size
            video.pix_fmt = clip.pix_fmt
            video.codec_context.time_base = video.time_base = clip.time_base
            if clip.rotation:
                video.set_display_rotation(clip.rotation)
            sound = (
                container.add_stream(clip.sound, rate=48_000, layout="mono") if clip.sound else None
            )
            for index, pts in enumerate(clip.times):
                # each frame another scene, so that nothing is carried over from the last
                pixels = np.full((*clip.size, 3), 97 * index % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = pts, clip.time_base
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if sound:
                write_sound(container, sound)
        return path

    return make


def write_sound(container, stream):
    wave = (8000 * np.sin(np.arange(19_200) / 20)).astype(np.int16)
    resampler = av.AudioResampler(stream.format.name, "mono", 48_000)
    for start in range(0, len(wave), 960):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 960], "s16", "mono")
        frame.sample_rate, frame.pts = 48_000, start
        for converted in resampler.resample(frame):
            container.mux(stream.encode(converted))
    container.mux(stream.encode(None))


def read_streams(path):
    """Return a file's frame times, rotation, and audio packets with their times."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        times = [frame.pts * frame.time_base for frame in frames]
        rotation = frames[0].rotation
    with av.open(str(path)) as container:
        sound = [
            (float(packet.pts * packet.time_base), bytes(packet))
            for stream in container.streams.audio
            for packet in container.demux(stream)
            if packet.size
        ]
    return times, rotation, sound


@pytest.mark.parametrize("segment", [3, 250])
@pytest.mark.parametrize("clip", CASES, ids=str)
def test_frame_times_audio_and_rotation_are_kept(clip, segment, make_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.files.restoring.SEGMENT_FRAMES", segment)
    source = make_clip(clip)
    done = restore_video(source, single_runner_restorer(NullRunner()), tmp_path / "out")
    times, rotation, sound = read_streams(source)
    kept_times, kept_rotation, kept_sound = read_streams(done.output)
    assert done.frames == len(clip.times) == len(kept_times)
    start = clip.times[0] * clip.time_base  # the result begins at 0
    assert kept_times == [time - start for time in times]
    assert kept_rotation == rotation == clip.rotation
    assert [packet for _, packet in kept_sound] == [packet for _, packet in sound]
    assert bool(sound) == bool(clip.sound)
    for (kept_s, _), (time_s, _) in zip(kept_sound, sound, strict=True):
        assert kept_s == pytest.approx(time_s - float(start), abs=2e-3)
    assert (done.width, done.height) == clip.size[::-1]
    assert done.shortfall == ""
    assert done.output.stem == source.stem
    assert [path.name for path in (tmp_path / "out").iterdir()] == [done.output.name]
    decoded_at, shown_at = packet_times(done.output)
    assert decoded_at == sorted(set(decoded_at))
    assert all(dts <= pts for dts, pts in zip(decoded_at, shown_at, strict=True))


@pytest.mark.parametrize("segment", [5, 250])
@pytest.mark.parametrize("name", ["plain.mp4", "ntsc.mp4"])
def test_the_last_frame_has_the_mean_duration(name, segment, make_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.files.restoring.SEGMENT_FRAMES", segment)
    clip = next(clip for clip in CASES if clip.name == name)
    done = restore_video(make_clip(clip), single_runner_restorer(NullRunner()), tmp_path / "out")
    with av.open(str(done.output)) as container:
        video = container.streams.video[0]
        assert video.duration * video.time_base == 12 * clip.times[1] * clip.time_base


def packet_times(path):
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    # Matroska stores no DTS; what FFmpeg guesses at its beginning is none
    known = [packet for packet in packets if packet.dts is not None]
    return [packet.dts for packet in known], [packet.pts for packet in known]


def test_every_frame_is_restored_in_order(make_clip, tmp_path):
    class Inverting(NullRunner):
        def run(self, frames):
            return 255 - super().run(frames)

    source = make_clip(Clip("a.mp4"))
    done = restore_video(source, single_runner_restorer(Inverting()), tmp_path / "out")
    for before, after in zip(levels(source), levels(done.output), strict=True):
        assert after == pytest.approx(255 - before, abs=4)


def levels(path):
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray(format="rgb24")[20, 48].mean() for frame in container.decode(video=0)
        ]


def test_an_enlarging_network_gives_a_larger_video(make_clip, tmp_path):
    done = restore_video(
        make_clip(Clip("a.mp4")), single_runner_restorer(NullRunner(scale=2)), tmp_path / "out"
    )
    assert (done.width, done.height) == (128, 96)
    assert len(read_streams(done.output)[0]) == 12


def test_a_failed_frame_is_written_unrestored_and_counted(make_clip, tmp_path, caplog):
    runner = NullRunner(scale=2, failure=EngineError("out of memory"), fails_at=9)
    done = restore_video(make_clip(Clip("a.mp4")), single_runner_restorer(runner), tmp_path / "out")
    assert (done.frames, done.failed) == (12, 4)
    assert len(read_streams(done.output)[0]) == 12
    assert "out of memory" in caplog.text


def test_progress_is_reported_after_each_frame(make_clip, tmp_path):
    seen = []
    restore_video(
        make_clip(Clip("a.mp4")), single_runner_restorer(NullRunner()), tmp_path,
        on_frame=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(i, 12) for i in range(1, 13)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError], ids=lambda e: e.__name__)
def test_an_interrupted_run_leaves_nothing_and_keeps_a_former_result(error, make_clip, tmp_path):
    source, out = make_clip(Clip("a.mp4")), tmp_path / "out"
    out.mkdir()
    (out / "a.mp4").write_text("former")

    def interrupt(done, total):
        if done == 5:
            raise error

    with pytest.raises(error):
        restore_video(source, single_runner_restorer(NullRunner()), out, on_frame=interrupt)
    assert [path.read_text() for path in out.iterdir()] == ["former"]


def test_a_truncated_file_is_restored_as_far_as_it_can_be_decoded(make_clip, tmp_path):
    source = make_clip(Clip("a.mkv", tuple(range(0, 4000, 33)), Fraction(1, 1000)))
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    done = restore_video(source, single_runner_restorer(NullRunner()), tmp_path / "out")
    assert 0 < done.frames < 122
    assert len(read_streams(done.output)[0]) == done.frames


def test_unreadable_files_and_replacing_the_source_are_refused(make_clip, tmp_path):
    text = tmp_path / "a.mp4"
    text.write_text("no video")
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be opened as video: Invalid data"):
        restore_video(text, single_runner_restorer(NullRunner()), tmp_path / "out")
    with pytest.raises(VideoError, match=r"b\.mp4 cannot be opened as video: No such file"):
        restore_video(tmp_path / "b.mp4", single_runner_restorer(NullRunner()), tmp_path / "out")
    source = make_clip(Clip("a.mp4"))
    before = source.read_bytes()
    with pytest.raises(OptionError, match=r"would replace .* choose another folder"):
        restore_video(source, single_runner_restorer(NullRunner()), source.parent)
    assert source.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_videos_are_recognized_by_suffix():
    assert is_video(Path("A.MP4"))
    assert is_video(Path("a.webm"))
    assert not is_video(Path("a.png"))


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the clips are not at hand")
def test_dropped_frames_of_an_avi_are_no_damage(tmp_path):
    # 444 frames by its header, 376 of which are empty: the frame before is shown on
    done = restore_video(CLIPS / "broken_tree.avi", single_runner_restorer(NullRunner()), tmp_path)
    times = read_streams(done.output)[0]
    assert done.frames == 68 == len(times)
    assert done.shortfall == ""
    assert float(times[-1]) == pytest.approx(443 / 15, abs=0.01)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the clips are not at hand")
@pytest.mark.parametrize("name", ["carphone_qcif.mp4", "gesture_night_vga.mkv"])
def test_sample_clips_keep_their_frame_times(name, tmp_path):
    done = restore_video(CLIPS / name, single_runner_restorer(NullRunner()), tmp_path)
    times = read_streams(CLIPS / name)[0]
    assert read_streams(done.output)[0] == [time - times[0] for time in times]


# Neither the first time nor the intervals of a constant frame rate.
TIMES = (5, 7, 8, 12, 13, 20, 21, 22, 30, 31)


@pytest.fixture
def clip(tmp_path):
    """A lossless file with a variable frame rate, each frame of another gray."""
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


def test_every_frame_keeps_its_order_and_time(clip, tmp_path):
    done = restore_video(clip, Restorer({"null": NullRunner}, "null"), tmp_path / "out")
    before, after = decoded(clip), decoded(done.output)
    assert done.frames == len(after) == len(before) == len(TIMES)
    assert done.failed == 0
    for (time, gray), (kept_time, kept_gray) in zip(before, after, strict=True):
        assert kept_time == pytest.approx(time - before[0][0], abs=2e-3)
        assert kept_gray == pytest.approx(gray, abs=4.0)
