"""An interrupted run resumes from its last finished segment and gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest

from mirnet_edge.errors import EngineError, VideoError
from mirnet_edge.testing.films import Film
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.encoding import REPRODUCIBLE, EncodingOptions, VideoWriter
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.frames import ColorTags
from mirnet_edge.video.restorer import single_runner_restorer

av = pytest.importorskip("av")

FRAMES = 35


class FlickeringRunner(NullRunner):
    """Brightens each frame by a factor that depends on its pixels, for smoothing to even out."""

    def run(self, frames):
        factor = 1.2 + 0.3 * (frames.astype(float).mean() * 7 % 1)
        return np.clip(super().run(frames) * factor, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def _short_segments(monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.files.restoring.SEGMENT_FRAMES", 10)


@pytest.fixture
def source(tmp_path):
    """A clip of one noisy scene, with a variable frame rate and audio."""
    path = tmp_path / "in" / "a.mp4"
    path.parent.mkdir()
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.codec_context.time_base = video.time_base = Fraction(1, 600)
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        for index in range(FRAMES):
            pixels = np.clip(80 + generator.normal(0, 20, (48, 64, 3)), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 20 * index + index % 3 * 7, Fraction(1, 600)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = (8000 * np.sin(np.arange(1024) / 20)).astype(np.float32)[None] / 32768
        for index in range(50):
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts = 48_000, 1024 * index
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def run_restore(source, out, runner=None, stop_at=None, **options):
    def interrupt(done, total):
        if done == stop_at:
            raise KeyboardInterrupt

    return restore_video(
        source,
        single_runner_restorer(runner or FlickeringRunner()),
        out,
        on_frame=interrupt,
        **options,
    )


def interrupt_at(source, out, at, **options):
    with pytest.raises(KeyboardInterrupt):
        run_restore(source, out, stop_at=at, **options)


@pytest.mark.parametrize("at", [[10], [11], [29], [12, 23], [FRAMES]], ids=str)
def test_a_resumed_run_gives_the_same_bytes_as_an_uninterrupted_one(at, source, tmp_path):
    whole = run_restore(source, tmp_path / "whole")
    for place in at:
        interrupt_at(source, tmp_path / "out", place)
    runner = FlickeringRunner()
    done = run_restore(source, tmp_path / "out", runner)
    assert done.resumed == at[-1] // 10 * 10
    assert runner.calls == FRAMES - done.resumed
    assert done.frames == whole.frames == FRAMES
    assert done.output.read_bytes() == whole.output.read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]
    assert whole.resumed == 0


FILMS = [
    Film(
        name="deep.mov", codec="libx265", pix_fmt="yuv420p10le", frames=25,
        options=(("x265-params", "log-level=error"),),
    ),
    Film(name="encoded.avi", codec="mpeg4", sound="adpcm_ms", frames=25),
    Film(name="interlaced.mkv", options=(("x264-params", "tff=1"),), frames=25),
    Film(name="gray.mkv", codec="ffv1", pix_fmt="gray", frames=25),
    Film(name="alpha.mov", codec="qtrle", pix_fmt="argb", frames=25),
    Film(name="alpha.mkv", codec="ffv1", pix_fmt="yuva420p", frames=25),
]  # fmt: skip


def _paint_transparent(number):
    return np.full((48, 64, 4), (9 * number, 90, 30, 8 * number), np.uint8)


@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.name)
def test_resumed_videos_of_other_kinds_have_the_same_bytes_too(film, make_film, tmp_path):
    options = {"paint": _paint_transparent} if film.name.startswith("alpha") else {}
    source = make_film(film, **options)
    whole = run_restore(source, tmp_path / "whole", NullRunner())
    interrupt_at(source, tmp_path / "out", 13)
    done = run_restore(source, tmp_path / "out", FlickeringRunner())
    assert done.resumed == 10
    again = run_restore(source, tmp_path / "again", FlickeringRunner())
    assert done.output.read_bytes() == again.output.read_bytes()
    assert done.frames == whole.frames == 25
    assert done.notes == again.notes == whole.notes


@contextmanager
def on_one_core():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def encoded(path, asm=None):
    """Return the bytes of 12 noisy frames, encoded by some of the processor's instructions."""
    noise = np.random.default_rng(0).integers(40, 120, (12, 144, 64, 3), np.uint8)
    options = {"height": 144, "width": 64, "time_base": Fraction(1, 30), "rate": Fraction(30)}
    if asm is not None:
        only = f"{REPRODUCIBLE['x264-params']}:asm={asm}"
        options["quality"] = {"crf": "16", "preset": "veryfast", "x264-params": only}
    with VideoWriter(path, EncodingOptions(color=ColorTags(), **options)) as writer:
        for pts, pixels in enumerate(noise):
            writer.write(pixels, pts)
    return path.read_bytes()


@pytest.mark.parametrize("asm", ["0", "SSE2", "AVX2"])
def test_the_processors_instructions_do_not_change_the_bytes(asm, tmp_path):
    assert encoded(tmp_path / "a.nut", asm) == encoded(tmp_path / "b.nut")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken away here")
def test_the_number_of_cores_does_not_change_the_bytes(tmp_path):
    usual = encoded(tmp_path / "a.nut")
    with on_one_core():
        assert encoded(tmp_path / "b.nut") == usual


def test_the_smoothing_state_is_resumed(source, tmp_path):
    whole = run_restore(source, tmp_path / "whole")
    interrupt_at(source, tmp_path / "out", 25)
    (record,) = (tmp_path / "out").glob(".*/00001.npz")
    without_state = {key: value for key, value in np.load(record).items() if key != "seen"}
    np.savez(record, **without_state)
    done = run_restore(source, tmp_path / "out")
    assert done.resumed == 20
    assert done.output.read_bytes() != whole.output.read_bytes()  # else it would not matter


def test_failed_frames_are_counted_over_all_runs(source, tmp_path):
    failing = {"failure": EngineError("out of memory")}
    with pytest.raises(KeyboardInterrupt):
        run_restore(source, tmp_path, NullRunner(**failing, fails_at=8), stop_at=15)
    done = run_restore(source, tmp_path, NullRunner(**failing, fails_at=21))
    assert (done.resumed, done.failed) == (10, 3 + 5)


@pytest.mark.parametrize("change", ["source", "bundle", "configuration", "encoder"])
def test_segments_with_another_fingerprint_are_not_resumed(change, source, tmp_path, monkeypatch):
    interrupt_at(source, tmp_path / "out", 25, fingerprint="one bundle")
    if change == "encoder":
        monkeypatch.setattr("mirnet_edge.video.files.restoring.REPRODUCIBLE", {"threads": "3"})
    if change == "source":
        os.utime(source, ns=(0, 0))
    runner = FlickeringRunner("another" if change == "configuration" else "null")
    fingerprint = "another" if change == "bundle" else "one bundle"
    done = run_restore(source, tmp_path / "out", runner, fingerprint=fingerprint)
    assert done.resumed == 0
    assert runner.calls == FRAMES
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_run_interrupted_in_its_first_segment_leaves_nothing(source, tmp_path):
    interrupt_at(source, tmp_path / "out", 9)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_source_keeps_finished_segments(source, tmp_path):
    interrupt_at(source, tmp_path / "out", 25)
    away = source.rename(source.with_name("away"))
    with pytest.raises(VideoError, match="cannot be opened"):
        run_restore(source, tmp_path / "out")
    away.rename(source)
    assert run_restore(source, tmp_path / "out").resumed == 20


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_loses_its_unfinished_segment_only(source, tmp_path):
    whole = run_restore(source, tmp_path / "whole", NullRunner())
    program = textwrap.dedent(f"""
        from pathlib import Path
        from mirnet_edge.testing.null_runner import NullRunner
        from mirnet_edge.video.files import restoring
        from mirnet_edge.video.restorer import single_runner_restorer
        restoring.SEGMENT_FRAMES = 10
        runner = single_runner_restorer(NullRunner(delay_s=0.05))
        restoring.restore_video(Path({str(source)!r}), runner, Path({str(tmp_path / "out")!r}))
    """)
    second = tmp_path / "out" / ".a.mp4.parts" / "00001.npz"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        end = time.monotonic() + 60
        while not second.is_file():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out" / "a.mp4").exists()
    done = run_restore(source, tmp_path / "out", NullRunner())
    assert done.resumed in (20, 30)
    assert done.output.read_bytes() == whole.output.read_bytes()
