"""Many videos on Ray's local cluster: the bytes, the faults and the end are those of one by one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.cli.restore import main
from mirnet_edge.dependencies import available
from mirnet_edge.errors import EngineError, MirnetEdgeError, OptionError
from mirnet_edge.runtime.bundle import RunnerChoice
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files import ray_cluster
from mirnet_edge.video.files.muxing import has_segments
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import single_runner_restorer

pytest.importorskip("av")
# not imported: the product tells it by its environment to listen on loopback
pytestmark = pytest.mark.skipif(
    not available("ray"), reason='needs pip install "mirnet-edge[fleet]"'
)

SEGMENT = 250


@pytest.fixture(scope="module")
def cluster():
    """What is started where no address is given, for all tests of this module."""
    with ray_cluster.connect_ray(None) as started:
        yield started


@pytest.fixture
def make_clip(write_video):
    """Return a file of noise around a gray: make_clip("a.avi", frames=12, gray=60)."""

    def make(name, frames=12, gray=60):
        noise = np.random.default_rng(gray).integers(-20, 20, (frames, 24, 32, 3))
        return write_video(name, (gray + noise).astype(np.uint8))

    return make


def choice_of(make_runner):
    """Return a choice whose runner is what the function makes, in whatever process."""

    @dataclass(frozen=True, kw_only=True)
    class Chosen(RunnerChoice):  # local, so that it travels to the workers by value
        def runner(self):
            return make_runner()

        def choose_configurations(self):
            return self

        def fingerprint(self):
            return "test"

    return Chosen(bundle=Path("none"), threads=1)


def dying(attempts, *, at, times):
    """Return a choice of a runner that kills its process, TIMES over all processes.

    Only where frames are bright, at the run AT. Each begin with such a frame is a line of ATTEMPTS.
    """

    def make_runner():
        class Dying(NullRunner):
            def run(self, frames):
                if frames.mean() > 128:
                    if self.calls == 0:
                        with attempts.open("a") as file:
                            file.write(f"{os.getpid()}\n")
                    begun = len(attempts.read_text().splitlines())
                    if self.calls == at and begun <= times:
                        os.kill(os.getpid(), signal.SIGKILL)
                return super().run(frames)

        return Dying()

    return choice_of(make_runner)


class Told:
    def __init__(self):
        self.done, self.failed = [], []

    @property
    def callbacks(self):
        return {
            "on_done": lambda one, mode: self.done.append((one, mode)),
            "on_failed": lambda path, error: self.failed.append((path, str(error))),
        }


def _joining(address, video, bundle, out, before=""):
    """Return the one line of a process of its own that joins a cluster in vain.

    Importing Ray for another's cluster comes too early for one of ours.
    """
    program = f"{before}\nimport sys; from mirnet_edge.cli.restore import main; main(sys.argv[1:])"
    ran = subprocess.run(
        [sys.executable, "-c", program, video, "--bundle", bundle, "--out", out, "--engine", "ray"],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "RAY_ADDRESS": address},
    )  # fmt: skip
    assert ran.returncode == 2
    assert not out.exists()
    (line,) = ran.stderr.splitlines()
    assert f"--ray-address {address}: no Ray cluster can be joined there (" in line
    return line


def test_an_address_where_nobody_is_ends_at_once(make_clip, make_bundle, tmp_path):
    line = _joining("127.0.0.1:1", make_clip("a.avi"), make_bundle(), tmp_path / "out")
    assert "Connection refused" in line
    assert line.endswith("; start one with: ray start --head")


def test_a_cluster_that_lets_nobody_in_may_want_a_token(make_clip, make_bundle, tmp_path):
    refusing = (
        "import ray\n"
        "def init(**options): raise ConnectionError('Failed to connect to Ray cluster')\n"
        "ray.init = init"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        line = _joining(address, make_clip("a.avi"), make_bundle(), tmp_path / "out", refusing)
    assert "(Failed to connect to Ray cluster); set RAY_AUTH_MODE=token, if the cluster" in line


def test_the_bytes_are_those_of_one_by_one(ran, cluster, make_clip, make_bundle, tmp_path):
    videos = [make_clip(f"{name}.avi", gray=gray) for name, gray in (("c", 50), ("a", 90), ("b", 70))]  # fmt: skip  # noqa: E501
    bundle, outs = make_bundle(), {}
    for engine in ("local", "ray"):
        outs[engine] = tmp_path / engine
        result = ran(
            main, *videos, "--bundle", bundle, "--out", outs[engine], "--engine", engine,
            "--threads", 1, "--json",
        )  # fmt: skip
        assert result.code == 0, result.err
        told = json.loads(result.out)["files"]
        assert [Path(one["input"]) for one in told] == videos
        assert [one["frames"] for one in told] == [12, 12, 12]
        *lines, counted = result.err.splitlines()
        lines.sort()
        assert counted == "mirnet-restore: 3 restored"
        assert [line.split("  ")[0] for line in lines] == [
            str(outs[engine] / f"{name}.mp4") for name in "abc"
        ]
        assert all(line.endswith("onnxruntime:fp32") for line in lines)
    for video in videos:
        there, here = (outs[engine] / f"{video.stem}.mp4" for engine in ("ray", "local"))
        assert there.read_bytes() == here.read_bytes()
        assert there.read_bytes() != video.read_bytes()
    assert len(list(outs["ray"].iterdir())) == 3


def test_a_file_that_cannot_be_read_is_named_and_the_others_go_on(
    ran, cluster, make_clip, make_bundle, tmp_path
):
    good = [make_clip(f"{name}.avi") for name in "ab"]
    bad = tmp_path / "bad.avi"
    bad.write_text("no video")
    out = tmp_path / "out"
    result = ran(
        main, good[0], bad, good[1], "--bundle", make_bundle(), "--out", out, "--engine", "ray"
    )
    assert result.code == 2
    *lines, counted = result.err.splitlines()
    assert counted == "mirnet-restore: 1 failed, 2 restored"
    (failed,) = [line for line in lines if line.startswith("mirnet-restore: ")]
    assert "bad.avi cannot be opened as video" in failed
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_killed_workers_file_is_begun_once_more_from_its_last_segment(
    cluster, make_clip, tmp_path
):
    bright, dark = make_clip("bright.avi", SEGMENT + 20, gray=200), make_clip("dark.avi")
    attempts, told = tmp_path / "attempts", Told()
    choice = dying(attempts, at=SEGMENT + 5, times=1)
    ray_cluster.restore_on_ray([bright, dark], choice, tmp_path / "out", **told.callbacks)
    assert told.failed == []
    assert len(set(attempts.read_text().splitlines())) == 2  # two processes
    done = {one.source: one for one, _ in told.done}
    assert (done[bright].frames, done[bright].resumed) == (SEGMENT + 20, SEGMENT)
    for video in (bright, dark):
        whole = restore_video(video, single_runner_restorer(NullRunner()), tmp_path / "whole")
        assert done[video].output.read_bytes() == whole.output.read_bytes()


def test_a_file_whose_worker_dies_twice_is_told_in_one_line(
    ran, cluster, make_bundle, make_clip, tmp_path, monkeypatch
):
    bright, dark = make_clip("bright.avi", gray=200), make_clip("dark.avi")
    attempts, out = tmp_path / "attempts", tmp_path / "out"
    choice = dying(attempts, at=3, times=99)
    monkeypatch.setattr("mirnet_edge.runtime.bundle.RunnerChoice", lambda **options: choice)
    result = ran(
        main, bright, dark, "--bundle", make_bundle(), "--out", out, "--executor", "ray", "--json"
    )
    assert result.code == 2
    assert len(attempts.read_text().splitlines()) == 2
    report = json.loads(result.out)  # and nothing that Ray prints
    outcomes = {one["input"]: one["outcome"] for one in report["files"]}
    assert outcomes == {str(bright): "failed", str(dark): "restored"}
    (line,) = [one for one in result.err.splitlines() if "bright.avi" in one]
    died = "was not restored: two workers were killed"
    assert line.startswith(f"mirnet-restore: {bright} {died}")
    assert len(result.err.splitlines()) == 3
    assert not (out / "bright.mp4").exists()


def test_what_a_worker_warns_of_is_told_here(cluster, make_clip, tmp_path, caplog):
    told = Told()

    def failing():
        return NullRunner(failure=EngineError("out of memory"), fails_at=9)

    ray_cluster.restore_on_ray(
        [make_clip("a.avi")], choice_of(failing), tmp_path / "out", **told.callbacks
    )
    ((one, mode),) = told.done
    assert (one.failed, mode) == (4, "null")
    assert "a.avi: a frame was not restored: out of memory" in caplog.text


def test_ctrl_c_ends_the_others_and_keeps_their_segments(cluster, make_clip, tmp_path):
    bright, dark = make_clip("bright.avi", 2 * SEGMENT, gray=200), make_clip("dark.avi")
    out = tmp_path / "out"
    finished = out / ".bright.mp4.parts" / "00000.npz"

    def make_runner():
        class Waiting(NullRunner):
            def run(self, frames):
                if frames.mean() > 128:
                    time.sleep(0.5 if self.calls > SEGMENT else 0.0)  # two minutes for the rest
                while frames.mean() < 128 and not finished.is_file():
                    time.sleep(0.01)
                return super().run(frames)

        return Waiting()

    def interrupt(one, mode):
        assert one.source == dark
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ray_cluster.restore_on_ray([bright, dark], choice_of(make_runner), out, on_done=interrupt)
    assert time.monotonic() - started < 80  # 35 s on a slow, loaded machine
    assert has_segments(bright, out)
    assert sorted(path.name for path in out.iterdir()) == [".bright.mp4.parts", "dark.mp4"]
    kept = sorted(path.name for path in finished.parent.iterdir())
    assert kept == ["00000.npz", "00000.nut", "fingerprint.json"]  # nothing half written


def test_more_threads_than_a_machine_has_are_refused(cluster, make_clip, make_bundle, tmp_path):
    choice = RunnerChoice(bundle=make_bundle(), threads=4096)
    with pytest.raises(OptionError, match=r"--threads 4096: no machine .* the largest has \d+"):
        ray_cluster.restore_on_ray([make_clip("a.avi")], choice, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_worker_with_another_version_restores_nothing(
    cluster, make_clip, make_bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_cluster, "version", lambda name: "0.0.0")
    with pytest.raises(
        MirnetEdgeError, match=r"expected mirnet-edge 0\.0\.0 .* found .*; install the same"
    ):
        ray_cluster.restore_on_ray(
            [make_clip("a.avi")], RunnerChoice(bundle=make_bundle()), tmp_path / "out"
        )


@pytest.mark.skipif(sys.platform != "linux", reason="reads who listens from /proc")
def test_nobody_else_reaches_what_is_started_here(cluster):
    psutil = pytest.importorskip("psutil")
    listening = [
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
