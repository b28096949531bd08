"""Videos are recognized by what they begin with."""

from __future__ import annotations

import pytest
from PIL import Image

from mirnet_edge.testing.films import Film, write_film
from mirnet_edge.video.files.recognition import is_video

pytest.importorskip("av")

FILMS = [
    Film(name="a.mp4"), Film(name="a.mkv"), Film(name="a.avi", codec="mpeg4"), Film(name="a.ts"),
    Film(name="a.m2ts", format="mpegts", options=(("mpegts_m2ts_mode", "1"),)),
    Film(name="a.vob", format="vob", codec="mpeg2video"), Film(name="a.flv", codec="flv"),
    Film(name="a.wmv", codec="wmv2"), Film(name="a.h264", format="h264"),
    Film(name="a.m2v", format="mpeg2video", codec="mpeg2video"), Film(name="a.nut"),
    Film(name="a.mxf", codec="mpeg2video"), Film(name="a.m4v", format="m4v", codec="mpeg4"),
    Film(name="a.265", format="hevc", codec="libx265", options=(("x265-params", "log-level=0"),)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["recording", "B.JPG", "c.txt"])
@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.name)
def test_a_video_is_recognized_under_any_name(film, name, tmp_path):
    assert is_video(write_film(tmp_path / name, film if film.format else named(film)))


def named(film):
    """Return the film with the muxer of its name."""
    from dataclasses import replace

    formats = {"mp4": "mp4", "mkv": "matroska", "avi": "avi", "ts": "mpegts", "flv": "flv",
               "wmv": "asf", "nut": "nut", "mxf": "mxf"}  # fmt: skip
    return replace(film, format=formats[film.name.partition(".")[2]])


def test_animated_gifs_are_videos_and_other_images_are_not(tmp_path):
    slides = [Image.new("RGB", (8, 8), (50 * number, 0, 0)) for number in range(3)]
    slides[0].save(tmp_path / "a.GIF", save_all=True, append_images=slides[1:])
    slides[0].save(tmp_path / "b.gif")
    slides[0].save(tmp_path / "c.png", save_all=True, append_images=slides[1:])
    slides[0].save(tmp_path / "d.png")
    assert is_video(tmp_path / "a.GIF")
    assert not is_video(tmp_path / "c.png")  # restored as an animated PNG
    assert not is_video(tmp_path / "d.png")
    assert not is_video(tmp_path / "b.gif")


def test_images_and_texts_are_none_and_suffixes_decide_about_the_rest(tmp_path):
    for name in ("a.png", "b.mp4", "c.mts"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
        assert not is_video(tmp_path / name)
    (tmp_path / "d.MTS").write_bytes(b"\1\2\3 no video")
    (tmp_path / "e.txt").write_bytes(b"GGGGGG no video")
    assert is_video(tmp_path / "d.MTS")
    assert not is_video(tmp_path / "e.txt")
    assert is_video(tmp_path / "missing.mov")
    for name in ("view.ts", "go.mod"):
        (tmp_path / name).write_text("export const äöü = 1;\n")
        assert not is_video(tmp_path / name)
