"""What goes along: sound of every codec, unknown tracks, covers, subtitles, metadata."""

from __future__ import annotations

import errno
import io
import struct
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from mirnet_edge.errors import MirnetEdgeError, VideoError
from mirnet_edge.testing.films import Film, read_film
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files import containers, muxing
from mirnet_edge.video.files.encoding import convert_write_errors
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import single_runner_restorer

av = pytest.importorskip("av")


def restore(source, out, runner=None):
    return restore_video(source, single_runner_restorer(runner or NullRunner()), out)


@dataclass(frozen=True)
class SoundCase:
    """A file's sound, and what becomes of it."""

    film: Film
    suffix: str
    codec: str
    note: str = ""

    def __str__(self):
        return f"{self.film.name} {self.film.sound}"


AAC = "it is encoded as AAC"
MATROSKA = "the result is Matroska (.mkv)"
SOUNDS = [
    SoundCase(
        Film(name="a.wmv", codec="wmv2", sound="wmav2", sample_rate=44_100), ".mp4", "aac", AAC
    ),
    SoundCase(Film(name="a.avi", codec="mpeg4", sound="adpcm_ms"), ".mp4", "aac", AAC),
    SoundCase(
        Film(name="a.avi", codec="mpeg4", sound="pcm_s16le"), ".mkv", "pcm_s16le", MATROSKA
    ),
    SoundCase(Film(name="a.avi", codec="mpeg4", sound="libmp3lame"), ".mp4", "mp3float"),
    SoundCase(
        Film(name="a.flv", codec="flv", sound="adpcm_swf", sample_rate=44_100, layout="mono"),
        ".mp4", "aac", AAC,
    ),
    SoundCase(
        Film(name="a.vob", format="vob", codec="mpeg2video", sound="pcm_dvd"), ".mp4", "aac", AAC
    ),
    SoundCase(Film(name="a.mpg", format="vob", codec="mpeg2video", sound="ac3"), ".mp4", "ac3"),
    SoundCase(Film(name="a.webm", codec="libvpx-vp9", sound="libopus"), ".mp4", "opus"),
    SoundCase(Film(name="a.ts", sound="aac"), ".mp4", "aac"),
    SoundCase(Film(name="a.m2ts", format="mpegts", sound="pcm_bluray"), ".mp4", "aac", AAC),
    SoundCase(Film(name="a.mov", sound="pcm_s24le"), ".mov", "pcm_s24le"),
    SoundCase(Film(name="a.mp4", sound="flac"), ".mp4", "flac"),
    SoundCase(Film(name="a.mkv", sound="pcm_f32le"), ".mkv", "pcm_f32le"),
    SoundCase(Film(name="mkv.mp4", format="matroska", sound="flac"), ".mkv", "flac"),
]  # fmt: skip


@pytest.mark.parametrize("case", SOUNDS, ids=str)
def test_sound_is_copied_or_encoded_and_stays_in_step(case, make_film, tmp_path):
    source = make_film(case.film)
    done = restore(source, tmp_path / "out")
    before, content = read_film(source), read_film(done.output)
    assert done.output.suffix == case.suffix
    assert content.codecs == ("h264", case.codec)
    assert [case.note in note for note in done.notes] == ([True] if case.note else [])
    late = before.clicks[0][0] - before.flashes[0]  # MPEG muxers give a few ms
    assert late == pytest.approx(0.0, abs=0.06)
    assert content.clicks[0][0] - content.flashes[0] == pytest.approx(late, abs=0.015)
    assert content.sound_s[0] == pytest.approx(before.sound_s[0], abs=0.03)


@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
def test_sound_of_many_channels_keeps_all_of_them(name, make_film, tmp_path):
    source = tmp_path / name
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=48_000, layout="16 channels")
        container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(video.encode(None))
        packet = av.Packet(bytes(16 * 2 * 1920))
        packet.stream, packet.time_base = sound, Fraction(1, 48_000)
        packet.pts = packet.dts = 0
        container.mux(packet)
    done = restore(source, tmp_path / "out")
    with av.open(str(done.output)) as container:
        assert container.streams.audio[0].codec_context.layout.nb_channels == 16


def test_the_last_packet_of_sound_without_durations_is_kept(make_film, tmp_path):
    """NUT states none of FLAC, and MP4 does not show a last packet of no duration."""
    film = Film(name="a.nut", codec="ffv1", sound="flac", frames=30)
    done = restore(make_film(film), tmp_path / "out")
    assert done.output.suffix == ".mp4"
    assert read_film(done.output).sound_s[0] == pytest.approx(1.2, abs=0.01)


def test_sound_that_lists_its_channels_is_copied(make_film, tmp_path):
    # QuickTime stores eight labels; PyAV 18.1 crashes where it frees such a layout
    source = tmp_path / "a.mov"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=48_000, layout="7.1")
        for number in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        packet = av.Packet(bytes(8 * 2 * 9600))
        packet.stream, packet.time_base = sound, Fraction(1, 48_000)
        packet.pts = packet.dts = 0
        container.mux(packet)
    done = restore(source, tmp_path / "out")
    assert done.notes == ()
    with av.open(str(done.output)) as container:
        assert sum(packet.size for packet in container.demux(audio=0)) == 8 * 2 * 9600


def test_a_track_of_an_unknown_codec_is_left_out_with_one_line(make_film, tmp_path):
    source = make_film(Film(name="a.mov", sound="alac", sounds=2))
    content = source.read_bytes()
    first = content.index(b"alac", content.index(b"stsd", content.index(b"stsd") + 4))
    second = content.index(b"alac", content.index(b"stsd", first))
    source.write_bytes(content[:second] + b"zzzz" + content[second + 4 :])
    done = restore(source, tmp_path / "out")
    assert read_film(done.output).codecs == ("h264", "alac")
    assert done.notes == ("track 2 (sound, unknown) is left out: FFmpeg does not know its codec",)


def jpeg():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_the_film_is_restored_and_its_cover_kept(name, tmp_path):
    source = tmp_path / name
    with av.open(str(source), "w") as container:
        if name == "a.mp4":  # the cover is the first stream
            cover = container.add_mux_stream("mjpeg", width=32, height=32)
            cover.time_base, cover.disposition = Fraction(1, 25), 1024
        else:
            container.add_attachment("cover.jpg", "image/jpeg", jpeg())
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        if name == "a.mp4":
            packet = av.Packet(jpeg())
            packet.stream, packet.time_base = cover, Fraction(1, 25)
            packet.pts = packet.dts = 0
            packet.is_keyframe = True
        frames = []
        for number in range(10):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            frames += video.encode(frame)
        frames += video.encode(None)
        if name == "a.mp4":
            container.mux(packet)
        container.mux(frames)
    done = restore(source, tmp_path / "out")
    assert (done.frames, done.width, done.height) == (10, 64, 48)
    assert done.notes == ()
    with av.open(str(done.output)) as container:
        (cover,) = [one for one in container.streams.video if int(one.disposition) & 1024]
        packet = next(packet for packet in container.demux(cover) if packet.size)
        assert bytes(packet) == jpeg()


def test_languages_flags_titles_chapters_subtitles_and_fonts_are_kept(make_film, tmp_path):
    text = tmp_path / "a.srt"
    text.write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n\n")
    plain = make_film(Film(name="plain.mkv", sound="aac", sounds=2))
    source = tmp_path / "in" / "film.mkv"
    chapters = [
        {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000),
         "metadata": {"title": "Arrival"}},
        {"id": 2, "start": 200, "end": 480, "time_base": Fraction(1, 1000),
         "metadata": {"title": "Beach"}},
    ]  # fmt: skip
    with (
        av.open(str(plain)) as film,
        av.open(str(text)) as subtitles,
        av.open(str(source), "w") as out,
    ):
        streams = {one: out.add_stream_from_template(one) for one in film.streams}
        streams[subtitles.streams[0]] = out.add_stream_from_template(subtitles.streams[0])
        _, english, german, written = out.streams
        english.metadata["language"], german.metadata["language"] = "eng", "deu"
        german.metadata["title"] = "Kommentar"
        german.disposition, english.disposition = 1 | 8, 0
        written.metadata["language"], written.disposition = "deu", 64
        out.add_attachment("font.ttf", "application/x-truetype-font", b"\0\1\2\3")
        out.metadata["title"] = "Holiday"
        out.set_chapters(chapters)
        for container in (film, subtitles):
            for packet in container.demux():
                if packet.size:
                    packet.stream = streams[packet.stream]
                    out.mux(packet)
    done = restore(source, tmp_path / "out")
    assert done.notes == ()
    with av.open(str(source)) as before, av.open(str(done.output)) as after:
        assert after.metadata["title"] == "Holiday"
        for kept in (before, after):
            assert [one["metadata"]["title"] for one in kept.chapters()] == ["Arrival", "Beach"]
        shown = [
            (one.type, one.metadata.get("language"), one.metadata.get("title"), one.disposition)
            for one in after.streams
        ]
        assert (
            shown[1:]
            == [
                (one.type, one.metadata.get("language"), one.metadata.get("title"), one.disposition)
                for one in before.streams
            ][1:]
        )
        (font,) = after.streams.attachments
        assert (font.name, font.data) == ("font.ttf", b"\0\1\2\3")
        lines = [bytes(packet) for packet in after.demux(subtitles=0) if packet.size]
        assert lines == [b"Hello"]


def test_apple_metadata_and_timecode_are_kept(tmp_path):
    source = tmp_path / "a.mov"
    tags = {
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.location.ISO6709": "+48.1372+011.5755+519.000/",
        "creation_time": "2023-07-15T16:22:31.000000Z",
    }
    options = {"movflags": "use_metadata_tags"}
    with av.open(str(source), "w", container_options=options) as container:
        container.metadata.update(tags)
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.metadata["timecode"] = "01:00:00:00"
        for number in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    done = restore(source, tmp_path / "out")
    assert done.notes == ()
    with av.open(str(done.output)) as container:
        assert {key: container.metadata.get(key) for key in tags if "apple" in key} == {
            key: value for key, value in tags.items() if "apple" in key
        }
        assert container.metadata["creation_time"].startswith("2023-07-15T16:22:31")
        assert container.streams.video[0].metadata["timecode"] == "01:00:00:00"


MATRICES = [
    (degrees, flipped) for degrees in (0, 90, 180, 270) for flipped in (False, True)
][1:]  # fmt: skip


def matrix_of(path):
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        for data in frame.side_data:
            if data.type.name == "DISPLAYMATRIX":
                return struct.unpack("=9i", bytes(data))
    return None


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_all_display_matrices_are_kept(matrix, suffix, make_film, tmp_path):
    degrees, flipped = matrix
    film = Film(name=f"a{suffix}", frames=2)
    source = make_film(
        film, change=lambda _, streams: streams[0].set_display_rotation(degrees, hflip=flipped)
    )
    done = restore(source, tmp_path / "out", NullRunner(scale=2))
    assert matrix_of(done.output) == matrix_of(source)
    assert matrix_of(source) is not None


def test_what_cannot_be_muxed_is_refused_before_the_first_frame(make_film, tmp_path, monkeypatch):
    def refuse(self):
        raise av.error.ArgumentError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(muxing.OutputFile, "write_samples", refuse)
    runner = NullRunner()
    with pytest.raises(VideoError, match=r"found one that it cannot \(Invalid argument\)"):
        restore(make_film(Film(name="a.mp4")), tmp_path / "out", runner)
    assert runner.calls == 0
    assert not (tmp_path / "out").exists()


def test_a_part_that_the_container_refuses_is_left_out_with_one_line(
    make_film, tmp_path, monkeypatch
):
    write = muxing.OutputFile.write_samples

    def refuse_chapters(self):
        if self._plan.keeps_chapters:
            raise av.error.ArgumentError(errno.EINVAL, "Invalid argument")
        write(self)

    monkeypatch.setattr(muxing.OutputFile, "write_samples", refuse_chapters)
    done = restore(make_film(Film(name="a.mp4")), tmp_path / "out")
    assert done.frames == 12
    (note,) = done.notes
    assert note.startswith("left out, because the container refuses it")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "Free disk space"), (errno.EACCES, "Choose another folder"),
     (errno.EINVAL, "Choose another container")],
)  # fmt: skip
def test_a_full_disk_is_named_only_where_it_is_full(number, advice, tmp_path):
    with (
        pytest.raises(MirnetEdgeError, match=advice),
        convert_write_errors(tmp_path / "a.mp4"),
    ):
        av.error.err_check(-number)


def test_what_mp4_refuses_at_the_end_is_written_as_matroska(make_film, tmp_path, monkeypatch):
    source = make_film(Film(name="a.mp4", sound="aac"))
    write = muxing.OutputFile.write

    def refuse(self, frames, packets):
        if self._plan.format == "mp4" and not isinstance(self._target, io.BytesIO):
            raise av.error.ArgumentError(errno.EINVAL, "Invalid argument", "a.mp4")
        write(self, frames, packets)

    monkeypatch.setattr(muxing.OutputFile, "write", refuse)
    done = restore(source, tmp_path / "out")
    (note,) = done.notes
    assert note.startswith(".mp4 refused it at the end; the result is Matroska (")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mkv"]
    content = read_film(done.output)
    assert (len(content.times), content.codecs) == (12, ("h264", "aac"))


def test_the_smaller_plans_leave_out_more_and_more():
    plan = containers.OutputPlan(suffix=".mkv", copied=(1,), keeps_attachments=True)
    lacking = [set(changes) for changes, _ in containers._smaller_plans(plan)]
    assert all(before < after for before, after in pairwise(lacking))
    assert "copied" in lacking[-1]


def test_a_wave_is_written_that_can_be_found(make_film):
    content = read_film(make_film(Film(name="a.mkv", sound="pcm_s16le")))
    assert content.clicks == ((pytest.approx(0.2, abs=0.01),),)
    assert content.flashes == (pytest.approx(0.2, abs=0.01),)
    assert np.isclose(content.sound_s[0], 0.48, atol=0.01)
