"""MP4 files that end within a box: what is there is restored, with a line."""

from __future__ import annotations

import io
import struct

import pytest

from mirnet_edge.errors import VideoError
from mirnet_edge.testing.films import Film
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.cut_files import FileStart, scan_boxes
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import single_runner_restorer

av = pytest.importorskip("av")

FILM = Film(name="a.mp4", frames=50, sound="aac", options=(("g", "10"),))


@pytest.fixture
def fragmented(make_film, tmp_path):
    """A film in fragments, as cameras write that may lose power."""
    path = tmp_path / "fragments.mp4"
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with (
        av.open(str(make_film(FILM))) as whole,
        av.open(str(path), "w", options=flags) as output,
    ):
        streams = {one.index: output.add_stream_from_template(one) for one in whole.streams}
        for packet in whole.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    return path


def boxes(content):
    """Return the place, length and name of each outer box."""
    found, place = [], 0
    while place < len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        found.append((place, length, name))
        place += length
    return found


def last(content, wanted):
    return [(place, length) for place, length, name in boxes(content) if name == wanted][-1]


def restore(path, tmp_path):
    return restore_video(path, single_runner_restorer(NullRunner()), tmp_path / "out")


def tracks(path):
    with av.open(str(path)) as container:
        return sorted(stream.type for stream in container.streams)


def cut(path, end):
    path.write_bytes(path.read_bytes()[:end])
    return path


SAYS = "the file is cut off, {} bytes or more are missing; the result has the video and sound that"


def test_a_cut_within_the_sound_of_the_last_fragment_is_said(fragmented, tmp_path):
    content = fragmented.read_bytes()
    place, length = last(content, b"mdat")
    done = restore(cut(fragmented, place + length - 3), tmp_path)  # sound comes last
    assert done.frames == FILM.frames
    assert SAYS.format(3) in done.shortfall
    assert tracks(done.output) == ["audio", "video"]


def test_a_cut_within_the_index_of_a_fragment_leaves_those_before(fragmented, tmp_path):
    content = fragmented.read_bytes()
    place, length = last(content, b"moof")
    done = restore(cut(fragmented, place + length // 2), tmp_path)
    assert 20 <= done.frames < FILM.frames
    assert SAYS.format(length - length // 2) in done.shortfall
    assert tracks(done.output) == ["audio", "video"]


def test_a_cut_after_all_media_is_no_fault(fragmented, tmp_path):
    content = fragmented.read_bytes()
    place, length = last(content, b"mfra")
    done = restore(cut(fragmented, place + length - 9), tmp_path)
    assert (done.frames, done.shortfall) == (FILM.frames, "")


def test_a_whole_file_is_none(fragmented, tmp_path):
    done = restore(fragmented, tmp_path)
    assert (done.frames, done.shortfall) == (FILM.frames, "")


def test_a_recording_without_its_index_is_said(make_film, tmp_path):
    path = make_film(FILM)
    place, _ = last(path.read_bytes(), b"moov")
    with pytest.raises(VideoError, match=r"has no index \(moov\).* the recording was not finished"):
        restore(cut(path, place), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1aE\xdf\xa3 Matroska",
        struct.pack(">I4s", 3, b"ftyp"),
        struct.pack(">I4s", 16, b"RIFF") + bytes(8),
    ],
    ids=["empty", "Matroska", "short", "another"],
)
def test_files_without_boxes_have_none(content, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert scan_boxes(path) is None
    assert scan_boxes(tmp_path / "missing.mp4") is None


def test_long_boxes_and_those_up_to_the_end_are_read(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(
        struct.pack(">I4sQ", 1, b"mdat", 20) + bytes(4) + struct.pack(">I4s", 0, b"moov")
    )
    found = scan_boxes(path)
    assert found is not None
    assert (found.names, found.cut_name, found.lacks_media) == ({b"mdat", b"moov"}, b"", False)


def test_the_start_of_a_file_ends_where_it_is_cut(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(10)))
    with FileStart(path, 6) as start:
        assert start.read() == bytes(range(6))
        assert start.seek(-2, io.SEEK_END) == 4
        assert start.read(9) == bytes([4, 5])
        assert start.read() == b""
        assert start.seek(1) == start.tell() == 1
