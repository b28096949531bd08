"""Times of every kind of clock: restarting, wrapping, without PTS, from an hour on."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest

from mirnet_edge.testing.films import EVENT_S, Film, read_film
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import single_runner_restorer

av = pytest.importorskip("av")

FRAMES = 12
WRAP_S = 2**33 / 90_000
"""When the clock of MPEG streams starts again."""


def restore(source, out):
    return restore_video(source, single_runner_restorer(NullRunner()), out)


def join(target, *parts):
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target


@dataclass(frozen=True)
class Joint:
    """Two recordings, joined byte by byte."""

    name: str
    films: tuple[Film, ...]

    def __str__(self):
        return self.name


TS = Film(name="a.ts", sound="aac")
SILENT = Film(name="a.ts")
PS = Film(name="a.mpg", format="vob", codec="mpeg2video", sound="mp2")
JOINTS = [
    Joint("the clock starts again", (TS, TS)),
    Joint("silent", (SILENT, SILENT)),
    Joint("the clock jumps ahead", (TS, replace(TS, start_s=100.0))),
    Joint("back and again", (replace(TS, start_s=100.0), TS, TS)),
    Joint("program stream", (PS, PS)),
]


@pytest.mark.parametrize("joint", JOINTS, ids=str)
def test_joined_recordings_follow_each_other(joint, make_film, tmp_path):
    parts = []
    for number, film in enumerate(joint.films):
        part = make_film(film)
        parts.append(part.rename(part.with_name(f"{number}{part.suffix}")))
    source = join(tmp_path / f"joined{parts[0].suffix}", *parts)
    done = restore(source, tmp_path / "out")
    content = read_film(done.output)
    count = len(joint.films)
    assert done.frames == count * FRAMES == len(content.times)
    assert done.shortfall == ""
    assert content.times[0] == pytest.approx(0.0, abs=0.05)
    assert content.steps[40] >= count * FRAMES - count  # all but the joints
    assert all(0 < step < 200 for step in content.steps)
    assert content.times[-1] == pytest.approx(count * FRAMES / 25, abs=0.1 * count)
    assert len(content.flashes) == count
    for clicks in content.clicks:
        for click, flash in zip(clicks, content.flashes, strict=True):
            assert click - flash == pytest.approx(0.0, abs=0.06)


@pytest.mark.parametrize(
    "film",
    [
        Film(name="b.avi", codec="libx264", options=(("bf", "2"),)),
        Film(name="packed.avi", codec="mpeg4", options=(("bf", "2"),)),
        Film(name="raw.h264", format="h264"),
        Film(
            name="raw.265", format="hevc", codec="libx265",
            options=(("x265-params", "log-level=0"),),
        ),
        Film(name="raw.m2v", format="mpeg2video", codec="mpeg2video", options=(("bf", "2"),)),
    ],
    ids=lambda film: film.name,
)  # fmt: skip
def test_files_without_pts_have_even_steps_from_0(film, make_film, tmp_path):
    done = restore(make_film(film), tmp_path / "out")
    content = read_film(done.output)
    assert content.times[0] == 0.0
    assert content.steps == {40: FRAMES - 1}
    assert content.flashes == (pytest.approx(EVENT_S),)  # in the order shown


@pytest.mark.parametrize(
    "film",
    [
        Film(name="hour.mkv", sound="flac", start_s=3600.0),
        Film(name="hour.ts", sound="aac", start_s=3600.0),
        Film(name="wrap.ts", sound="aac", start_s=WRAP_S - 0.28),
    ],
    ids=lambda film: film.name,
)
def test_a_result_begins_near_0_with_its_sound_in_step(film, make_film, tmp_path):
    done = restore(make_film(film), tmp_path / "out")
    content = read_film(done.output)
    assert content.times[0] == pytest.approx(0.0, abs=0.05)
    assert set(content.steps) <= {39, 40, 41}
    (flash,) = content.flashes
    assert content.clicks[0][0] == pytest.approx(flash, abs=0.04)
    with av.open(str(done.output)) as container:
        assert container.duration / 1e6 < 1.0


SINGLE = [
    Film(name="one.mp4"), Film(name="one.mkv"), Film(name="one.flv", codec="flv"),
    Film(name="one.ts", codec="mpeg2video"), Film(name="one.avi", codec="mpeg4"),
]  # fmt: skip


@pytest.mark.parametrize("film", SINGLE, ids=lambda film: film.name)
def test_a_single_frame_begins_at_0_and_has_its_own_duration(film, make_film, tmp_path):
    done = restore(make_film(replace(film, frames=1)), tmp_path / "out")
    with av.open(str(done.output)) as container:
        assert container.duration / 1e6 == pytest.approx(0.04)


def test_the_last_image_of_a_slide_show_is_shown_as_long_as_in_the_source(tmp_path):
    source = tmp_path / "slides.gif"
    from PIL import Image

    slides = [Image.new("RGB", (64, 48), (50 * number, 0, 0)) for number in range(4)]
    slides[0].save(source, save_all=True, append_images=slides[1:], duration=[100, 100, 100, 900])
    done = restore(source, tmp_path / "out")
    with av.open(str(done.output)) as container:
        assert container.duration / 1e6 == pytest.approx(1.2)
    assert read_film(done.output).steps == {100: 3}


def hide_frames(path, seconds):
    """Make an MP4's edit list begin later: players do not show what lies before."""
    content = bytearray(path.read_bytes())
    place = content.index(b"elst")
    count, duration, media_time = struct.unpack_from(">3I", content, place + 8)
    assert count == 1
    with av.open(str(path)) as container:
        ticks = round(seconds / container.streams.video[0].time_base)
    struct.pack_into(">2I", content, place + 12, duration - round(1000 * seconds),
                     media_time + ticks)  # fmt: skip
    path.write_bytes(bytes(content))


def test_frames_that_an_edit_list_hides_are_no_damage(make_film, tmp_path):
    source = make_film(Film(name="a.mp4", options=(("bf", "2"),)))
    hide_frames(source, 0.16)
    with av.open(str(source)) as container:
        assert container.streams.video[0].frames == FRAMES
    done = restore(source, tmp_path / "out")
    assert done.frames == FRAMES - 4
    assert done.shortfall == ""
    assert read_film(done.output).times[0] == 0.0


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_a_file_that_was_cut_off_is_restored_up_to_there_and_said(name, make_film, tmp_path):
    film = Film(name=name, frames=60, size=(96, 128), codec="mjpeg", pix_fmt="yuvj420p")
    options = {"change": lambda container, _: container.options.update(movflags="faststart")}
    source = make_film(film, **(options if name == "a.mp4" else {}))
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    done = restore(source, tmp_path / "out")
    assert 10 < done.frames < 50
    assert len(read_film(done.output).times) == done.frames
    assert "the file is damaged or truncated, and the result ends there" in done.shortfall


@pytest.mark.parametrize("overlap_s", [0.02, 0.06])
@pytest.mark.parametrize("sound", ["aac", "mp2", "ac3"])
def test_recordings_that_overlap_a_little_are_written(sound, overlap_s, make_film, tmp_path):
    parts = []
    for number in range(3):
        start_s = number * (FRAMES / 25 - overlap_s)
        film = Film(name="a.ts", sound=sound, start_s=start_s, size=(48, 64 + 16 * number))
        part = make_film(film)
        parts.append(part.rename(part.with_name(f"{number}.ts")))
    done = restore(join(tmp_path / "joined.ts", *parts), tmp_path / "out")
    assert done.frames == 3 * FRAMES
    content = read_film(done.output)
    assert len(content.times) == 3 * FRAMES
    assert content.sound_s[0] > 2.5 * FRAMES / 25


def test_every_frame_before_a_cut_off_is_there_whatever_the_threads(make_film, tmp_path):
    film = Film(name="a.flv", frames=40, size=(96, 128), options=(("bf", "2"), ("g", "60")))
    content = make_film(film).read_bytes()
    (tmp_path / "cut.flv").write_bytes(content[: len(content) * 6 // 10])
    with av.open(str(tmp_path / "cut.flv")) as container:
        video = container.streams.video[0]
        video.thread_type = "NONE"
        expected = 0
        for packet in container.demux(video):
            with contextlib.suppress(av.FFmpegError):
                expected += len(packet.decode())
    assert restore(tmp_path / "cut.flv", tmp_path / "out").frames == expected > 10


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_last_frame_after_long_steps_is_shown_as_long_as_usual(name, tmp_path):
    """Where B frames are coded behind it, and the first steps are longer than the last."""
    with av.open(str(tmp_path / name), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "3"})
        video.width, video.height = 64, 48
        video.codec_context.time_base = Fraction(1, 25)
        for time in (0, 3, 6, 9, *range(12, 30)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * time, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    done = restore(tmp_path / name, tmp_path / "out")
    with av.open(str(done.output)) as container:
        assert container.duration / 1e6 == pytest.approx(1.2, abs=0.04)


def test_a_recording_that_begins_between_key_frames_is_not_damaged(make_film, tmp_path):
    film = Film(name="a.ts", frames=60, options=(("g", "20"), ("bf", "0")))
    source = make_film(film)
    content = source.read_bytes()
    source.write_bytes(content[:376] + content[188 * 12 :])
    done = restore(source, tmp_path / "out")
    assert 30 <= done.frames < 60
    assert done.shortfall == ""


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_a_file_that_grows_while_it_is_read_gives_equal_lengths(name, make_film, tmp_path):
    whole = make_film(Film(name=name, frames=50, sound="mp2"))
    content = whole.read_bytes()
    source = tmp_path / name
    source.write_bytes(content[: len(content) // 2])

    def grow(done, total):
        source.write_bytes(content)

    done = restore_video(
        source, single_runner_restorer(NullRunner()), tmp_path / "out", on_frame=grow
    )
    result = read_film(done.output)
    assert result.sound_s[0] == pytest.approx(result.times[-1], abs=0.15)
    assert any("written to while it was read" in note for note in done.notes)
