"""Recordings: playable whatever ends them, and never the end of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.recording import Recorder
from mirnet_edge.video.live.sinks import MemorySink
from mirnet_edge.video.live.sources import SyntheticSource
from mirnet_edge.video.restorer import single_runner_restorer


def read_frames(path):
    """Return the number of frames that can be decoded."""
    with av.open(str(path)) as container:
        count = 0
        for packet in container.demux(video=0):
            try:
                count += len(packet.decode())
            except av.error.InvalidDataError:  # the last one of a file that was cut
                continue
        return count


def record(recorder, frames=8, controls=None, watch=lambda shown: None):
    controls = controls or Controls(recording=True)
    source = SyntheticSource(width=32, height=24, fps=200, frames=frames)
    sink = MemorySink(watch)
    Live(source, single_runner_restorer(NullRunner()), [recorder, sink], controls=controls).run()
    return sink


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "12:30.mp4"])
def test_displayed_frames_are_recorded_and_no_other_file_is_left(tmp_path, name):
    sink = record(Recorder(tmp_path / "new" / name))
    assert read_frames(tmp_path / "new" / name) == len(set(sink.indices)) > 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_each_recording_has_a_file_of_its_own(tmp_path):
    controls = Controls(recording=True)
    recorder = Recorder(tmp_path / "a.mp4")
    record(
        recorder, 12, controls,
        lambda shown: controls.set_recording(not 3 < shown.before.index < 7),
    )  # fmt: skip
    assert [path.name for path in recorder.files] == ["a.mp4", "a-2.mp4"]
    assert all(read_frames(path) for path in recorder.files)


def test_a_folder_that_cannot_be_written_ends_the_recording_and_not_the_run(tmp_path):
    (tmp_path / "file").write_text("no folder")
    failures = []
    sink = record(Recorder(tmp_path / "file" / "a.mp4", failures.append))
    assert len(sink.shown) > 3
    (failure,) = failures  # said once, not for each frame
    assert failure.startswith("the recording ended: ")
    assert "cannot be written" in failure


def test_a_recording_that_failed_begins_anew_when_it_is_switched_on_again(tmp_path, monkeypatch):
    failures, controls = [], Controls(recording=True)
    recorder = Recorder(tmp_path / "a.mp4", failures.append)
    (tmp_path / "a.mp4").mkdir()  # cannot be replaced

    def watch(shown):
        controls.set_recording(not 3 < shown.before.index < 7)

    record(recorder, 12, controls, watch)
    assert len(failures) == 1
    assert read_frames(tmp_path / "a-2.mp4") > 0


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"--record must end in \.mp4"):
        Recorder(tmp_path / "a.gif")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
from mirnet_edge.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_keeps_the_recording_and_the_run_goes_on_until_sigterm(
    make_bundle, tmp_path, suffix
):
    target, stats = tmp_path / f"a{suffix}", tmp_path / "stats.json"
    running = subprocess.Popen(
        [
            sys.executable, "-c", LIMITED, "live", "--source", "synthetic", "--size", "160x120",
            "--display", "none", "--bundle", make_bundle(), "--record", target, "--stats", stats,
        ],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "40"},
    )  # fmt: skip
    try:
        line = running.stderr.readline()
        assert line.startswith(f"the recording ended: {target} cannot be written: File too large")
        assert line.endswith(f"; {target} is kept\n")
        time.sleep(0.7)
        running.send_signal(signal.SIGTERM)
        rest = running.communicate(timeout=20)[1]
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 0
    assert "Traceback" not in rest
    kept, found = read_frames(target), json.loads(stats.read_text())
    assert kept > 3
    assert found["shown"] > kept  # it went on after the disk was full
    assert target.stat().st_size <= 150_000


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_signal_writes_statistics_and_closes_the_recording(make_bundle, tmp_path, number):
    target, stats = tmp_path / "a.mp4", tmp_path / "stats.json"
    code = "from mirnet_edge.cli.main import main; main()"
    running = subprocess.Popen(
        [
            sys.executable, "-c", code, "live", "--source", "synthetic", "--size", "64x48",
            "--display", "none", "--bundle", make_bundle(), "--record", target, "--stats", stats,
        ],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    part = tmp_path / ".a.mp4.part.mp4"
    try:
        end = time.monotonic() + 30
        while not part.exists() or part.stat().st_size == 0:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
        running.send_signal(getattr(signal, number))
        rest = running.communicate(timeout=20)[1]
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 0, rest
    assert 0 < read_frames(target) <= json.loads(stats.read_text())["shown"]
    assert not part.exists()


def test_frames_of_another_size_begin_another_file(tmp_path, make_shown_frame):
    with Recorder(tmp_path / "a.mkv") as recorder:
        for index, size in enumerate([(24, 32), (24, 32), (48, 64), (47, 63)]):
            recorder.show(make_shown_frame(index, size))
    sizes = []
    for path in recorder.files:
        with av.open(str(path)) as container:
            sizes.append((container.streams.video[0].height, container.streams.video[0].width))
    assert sizes == [(24, 32), (48, 64), (47, 63)]


@pytest.fixture
def make_shown_frame():
    """Return a displayed frame of a size, recorded."""
    controls, sink = Controls(recording=True), MemorySink()
    source = SyntheticSource(width=8, height=8, fps=200, frames=1)
    Live(source, single_runner_restorer(NullRunner()), [sink], controls=controls).run()
    (shown, *_) = sink.shown

    def make(index, size):
        from dataclasses import replace

        from mirnet_edge.video.frames import VideoFrame

        pixels = np.full((*size, 3), 9, np.uint8)
        frame = VideoFrame(pixels=pixels, index=index, captured_s=index / 25)
        return replace(shown, before=frame, after=pixels)

    return make
