"""mirnet-restore on videos, run in this process."""

from __future__ import annotations

import json
import os
import signal
import sys
from fractions import Fraction

import numpy as np
import pytest

from mirnet_edge.cli.restore import main
from mirnet_edge.errors import VideoError
from mirnet_edge.images.files import ImageFile, write_image

av = pytest.importorskip("av")
from mirnet_edge.video.files.segments import segments_folder  # noqa: E402  # needs av


@pytest.fixture
def make_video(tmp_path):
    def make(name, frames=5):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            video = container.add_stream("mpeg4", rate=25)
            video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
            for index in range(frames):
                pixels = np.full((48, 64, 3), 60, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        return path

    return make


def test_images_and_videos_are_restored_together(ran, make_bundle, make_video, tmp_path):
    image = tmp_path / "in.png"
    write_image(image, ImageFile(frame=np.full((6, 8, 3), 60, np.uint8)))
    video, out = make_video("a.avi"), tmp_path / "out"
    result = ran(main, image, video, "--bundle", make_bundle(), "--out", out, "--json")
    assert result.code == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "in.png"]
    _, told = json.loads(result.out)["files"]
    assert told["frames"] == 5
    assert told["not_restored"] == 0
    with av.open(str(out / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert frames[-1].mean() == pytest.approx(90, abs=3)
    assert "a.mp4  64x48  5 frames" in result.err


def test_a_broken_video_is_named_and_the_others_are_restored(ran, make_bundle, make_video):
    good = make_video("good.mp4")
    bad = good.with_name("bad.mp4")
    bad.write_text("no video")
    out = good.parent.parent / "out"
    result = ran(main, bad, good, "--bundle", make_bundle(), "--out", out)
    assert result.code == 2
    failed, done, counted = result.err.splitlines()
    assert "bad.mp4 cannot be opened as video" in failed
    assert done.startswith(str(out / "good.mp4"))
    assert counted == "mirnet-restore: 1 failed, 1 restored"


def test_the_second_of_two_videos_with_one_result_is_refused(
    ran, make_bundle, make_video, tmp_path
):
    videos = make_video("a.avi"), make_video("a.mpg")
    out = tmp_path / "out"
    result = ran(main, *videos, "--bundle", make_bundle(), "--out", out)
    assert result.code == 2
    refused, restored, counted = result.err.splitlines()
    assert f"a.mp4 would replace the result of {videos[0]}" in refused
    assert restored.startswith(str(out / "a.mp4"))
    assert counted == "mirnet-restore: 1 failed, 1 restored"


def test_the_same_command_goes_on_with_a_video_that_was_cut_off(
    ran, make_bundle, make_video, tmp_path, monkeypatch
):
    from mirnet_edge.video.files import restoring

    monkeypatch.setattr(restoring, "SEGMENT_FRAMES", 2)
    video, out, bundle = make_video("a.mp4"), tmp_path / "out", make_bundle()
    command = (main, video, "--bundle", bundle, "--out", out, "--json")
    with monkeypatch.context() as broken:
        # the disk fills while the third frame is written
        write = restoring.VideoWriter.write

        def failing(writer, pixels, pts):
            if pts and writer.frames == 0:
                raise VideoError("the disk is full")
            write(writer, pixels, pts)

        broken.setattr(restoring.VideoWriter, "write", failing)
        assert ran(*command).code == 2
    result = ran(*command)
    assert result.code == 0, result.err
    (told,) = json.loads(result.out)["files"]
    assert (told["frames"], told["resumed"]) == (5, 2)
    assert "resumed; an interrupted run had restored the first 2" in result.err
    assert [path.name for path in out.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("at", [1, 3], ids=["in the first segment", "after it"])
def test_ctrl_c_says_what_is_kept(at, ran, make_bundle, make_video, tmp_path, monkeypatch):
    from mirnet_edge.video.files import restoring

    monkeypatch.setattr(restoring, "SEGMENT_FRAMES", 2)
    done, video = make_video("done.mp4"), make_video("a.mp4", 6)
    out, bundle = tmp_path / "out", make_bundle()
    with monkeypatch.context() as interrupted:
        write = restoring.VideoWriter.write
        written = []

        def writing(writer, pixels, pts):
            written.append(pts)
            if len(written) == 5 + at:  # five are of the first video
                signal.raise_signal(signal.SIGINT)
            write(writer, pixels, pts)

        interrupted.setattr(restoring.VideoWriter, "write", writing)
        result = ran(main, done, video, "--bundle", bundle, "--out", out)
    assert result.code == 130
    *_, line = result.err.splitlines()
    kept = (
        "no segment was finished; the same command starts again"
        if at == 1
        else "the finished segments of a.mp4 are kept, and the same command resumes there"
    )
    over = "1 of 2 videos are done: --skip-existing skips them"
    assert line == f"mirnet-restore: interrupted; {kept}. {over}"
    before = (out / "done.mp4").stat().st_mtime_ns
    result = ran(main, done, video, "--bundle", bundle, "--out", out, "--skip-existing", "--json")
    skipped, told = json.loads(result.out)["files"]
    assert (told["frames"], told["resumed"]) == (6, 0 if at == 1 else 2)
    assert (skipped["input"], skipped["outcome"]) == (str(done), "skipped")
    assert (out / "done.mp4").stat().st_mtime_ns == before


def test_a_result_in_another_container_is_found_too(ran, make_bundle, make_video, tmp_path):
    video, out, bundle = make_video("a.avi"), tmp_path / "out", make_bundle()
    options = ["--bundle", bundle, "--out", out, "--skip-existing"]
    assert ran(main, video, *options).code == 0
    (made,) = out.iterdir()
    assert made.suffix != ".avi"
    again = ran(main, video, *options)
    assert (again.code, again.out) == (0, "")
    assert again.err == "mirnet-restore: 1 skipped\n"


def test_a_video_is_not_its_own_result(ran, make_bundle, make_video):
    video = make_video("a.mp4")
    result = ran(main, video, "--bundle", make_bundle(), "--out", video.parent, "--skip-existing")
    assert result.code == 2
    assert "would replace" in result.err


@pytest.mark.parametrize(
    ("executor", "says"),
    [
        ("spark", "'spark' is not one of 'local', 'ray'"),
        ("ray", 'pip install "mirnet-edge[fleet]"'),
    ],
)
def test_a_missing_executor_is_one_line(
    executor, says, ran, make_bundle, make_video, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    out = tmp_path / "out"
    video = make_video("a.mp4")
    result = ran(main, video, "--bundle", make_bundle(), "--out", out, "--executor", executor)
    assert result.code == 2
    assert says in result.line
    assert not out.exists()


def test_a_chain_is_blended_and_smoothed_in_a_video_too(ran, make_video, tmp_path):
    video, out = make_video("a.mp4"), tmp_path / "large.mkv"
    options = ["--task", "low-light,super-resolution", "--strength", 0.5]
    cpu = ["--backend", "onnxruntime", "--precision", "fp32"]
    result = ran(main, video, *options, *cpu, "--out", out, "--json")
    assert result.code == 0, result.err
    (told,) = json.loads(result.out)["files"]
    assert told["output"] == str(out)
    assert told["configuration"] == "onnxruntime:fp32 + onnxruntime:fp32"
    assert (told["width"], told["height"], told["frames"]) == (128, 96, 5)
    assert told["tasks"] == ["low-light", "super-resolution"]
    with av.open(str(out)) as container:
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert min(levels) > 65  # half of the way from 60
    assert max(levels) - min(levels) < 2


def _frames_of(path):
    with av.open(str(path)) as container:
        return [(float(frame.time), frame.to_ndarray(format="rgb24"))
                for frame in container.decode(video=0)]  # fmt: skip


def test_a_video_is_compared_side_by_side_frame_by_frame(ran, make_bundle, make_video, tmp_path):
    video, out = make_video("a.mp4"), tmp_path / "out"
    arguments = [video, "--bundle", make_bundle(), "--out", out, "--compare"]
    result = ran(main, *arguments, "--json")
    assert result.code == 0, result.err
    comparison = out / "a.compare.mp4"
    (told,) = json.loads(result.out)["files"]
    assert told["comparison"] == str(comparison)
    assert "a.compare.mp4  132x48  before and after" in result.err
    compared, restored = _frames_of(comparison), _frames_of(out / "a.mp4")
    assert [time for time, _ in compared] == pytest.approx([time for time, _ in restored], abs=1e-3)
    for (_, both), (_, after) in zip(compared, restored, strict=True):
        assert both.shape == (48, 64 + 4 + 64, 3)
        assert both[:, :60].mean() == pytest.approx(60, abs=3)
        assert both[:, 72:].mean() == pytest.approx(after.mean(), abs=2)
    # neither is replaced, and a comparison that is missing is written alone
    again = ran(main, *arguments)
    assert again.code == 2
    assert "a.compare.mp4 exists already" in again.line
    before = (out / "a.mp4").read_bytes()
    comparison.unlink()
    skipped = ran(main, *arguments, "--skip-existing", "--json")
    assert skipped.code == 0, skipped.err
    (told,) = json.loads(skipped.out)["files"]
    assert (told["outcome"], told["comparison"]) == ("skipped", str(comparison))
    assert len(_frames_of(comparison)) == 5
    assert (out / "a.mp4").read_bytes() == before


def test_an_enlarged_video_is_compared_at_the_results_size(ran, make_video, tmp_path):
    video, out = make_video("a.mp4", frames=2), tmp_path / "out"
    options = ["--task", "super-resolution", "--backend", "onnxruntime", "--precision", "fp32"]
    result = ran(main, video, *options, "--out", out, "--compare")
    assert result.code == 0, result.err
    compared = _frames_of(out / "a.compare.mp4")
    assert [frame.shape for _, frame in compared] == [(96, 128 + 4 + 128, 3)] * 2


def test_a_video_beside_its_source_is_not_replaced(ran, make_bundle, make_video):
    video, bundle = make_video("a.mp4"), make_bundle()
    assert ran(main, video, "--bundle", bundle).code == 0
    result = video.with_name("a.restored.mp4")
    before = result.read_bytes()
    again = ran(main, video, "--bundle", bundle)
    assert again.code == 2
    assert "a.restored.mp4 exists already; --overwrite replaces it" in again.line
    assert result.read_bytes() == before
    assert ran(main, video, "--bundle", bundle, "--overwrite").code == 0


@pytest.mark.parametrize(
    "name",
    ["12:30.mp4", "n" * 242 + ".mp4", "-a.mp4", "http:a.mp4", "a|b?.mp4", "a-%03d.mp4",
     os.fsdecode(b"caf\xe9.mp4")],
    ids=ascii,
)  # fmt: skip
def test_videos_of_any_name_are_restored(name, ran, make_bundle, make_video, monkeypatch):
    path = make_video("a.mp4").rename(make_video("a.mp4").with_name(name))
    monkeypatch.chdir(path.parent)
    result = ran(main, "--bundle", make_bundle(), "--", name)
    assert result.code == 0, result.err
    stem = name.removesuffix(".mp4")
    assert path.with_name(f"{stem}.restored.mp4").is_file()


def test_an_error_of_any_type_in_one_video_stops_no_other(
    ran, make_bundle, make_video, monkeypatch
):
    videos = [make_video(f"{name}.mp4") for name in "abc"]
    from mirnet_edge.video.files import restoring

    restore = restoring.restore_video

    def failing(source, *given, **options):
        if source.name == "b.mp4":
            raise MemoryError
        return restore(source, *given, **options)

    monkeypatch.setattr(restoring, "restore_video", failing)
    result = ran(main, *videos, "--bundle", make_bundle(), "--json")
    assert result.code == 2
    outcomes = [one["outcome"] for one in json.loads(result.out)["files"]]
    assert outcomes == ["restored", "failed", "restored"]
    assert f"{videos[1]} was not restored: the memory does not suffice" in result.err


@pytest.mark.parametrize("newer", [False, True], ids=["left behind", "of a run that replaces it"])
def test_segments_of_a_complete_result_are_removed(ran, make_bundle, make_video, tmp_path, newer):
    video, out = make_video("a.mp4"), tmp_path / "out"
    options = [video, "--bundle", make_bundle(), "--out", f"{out}/", "--skip-existing"]
    assert ran(main, *options).code == 0
    parts = segments_folder(out / "a.mp4")
    parts.mkdir()
    for name in ("00000.nut", "00000.npz"):
        (parts / name).write_bytes(b"segment")
        moment = (out / "a.mp4").stat().st_mtime + (10 if newer else -10)
        os.utime(parts / name, (moment, moment))
    assert ran(main, *options).code == 0
    assert parts.exists() == newer
