"""What the frames are: interlaced, gray, of changing size, of 10 bits, HLG and PQ, transparent."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from mirnet_edge.testing.films import Film
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.decoding import RgbDecoder
from mirnet_edge.video.files.deinterlacing import Deinterlacer
from mirnet_edge.video.files.encoding import EncodingOptions, FrameEncoder
from mirnet_edge.video.files.high_dynamic_range import HLG, PQ, DeepRestoring
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.frames import ColorTags
from mirnet_edge.video.restorer import single_runner_restorer

av = pytest.importorskip("av")


def restore(source, out, runner=None):
    return restore_video(source, single_runner_restorer(runner or NullRunner()), out)


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def combs(pixels):
    """Return how much rows differ from the mean of their neighbors."""
    rows = pixels[..., 0].astype(float)
    return np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean()


def paint_fields(number):
    """Two fields of a bar that moves by 6 columns from field to field."""
    pixels = np.full((64, 96, 3), 40, np.uint8)
    for field in (0, 1):
        left = 12 * number + 6 * field
        pixels[field::2, left : left + 12] = 200
    return pixels


INTERLACED = Film(name="a.mp4", size=(64, 96), frames=6, options=(("x264-params", "tff=1"),))


def test_interlaced_frames_are_deinterlaced_and_said(make_film, tmp_path):
    source = make_film(INTERLACED, paint=paint_fields)
    before = [frame.to_ndarray(format="rgb24") for frame in decoded(source)]
    assert min(map(combs, before)) > 10  # else there is nothing to remove
    done = restore(source, tmp_path / "out")
    after = decoded(done.output)
    assert len(after) == len(before)
    assert not any(frame.interlaced_frame for frame in after)
    assert max(combs(frame.to_ndarray(format="rgb24")) for frame in after) < 4
    assert done.notes == ("it is interlaced; its frames were deinterlaced (bwdif)",)


def test_progressive_frames_pass_the_deinterlacer_as_they_are(make_film):
    deinterlacer = Deinterlacer()
    frames = decoded(make_film(Film(name="a.mp4", frames=4)))
    passed = [one for frame in frames for one in deinterlacer.add(frame)]
    assert all(one is frame for one, frame in zip(passed, frames, strict=True))
    assert list(deinterlacer.flush()) == []
    assert deinterlacer.frames == 0


class Coloring(NullRunner):
    """Adds red, as a network may."""

    def run(self, frames):
        return np.clip(super().run(frames) + np.array([40, 0, 0]), 0, 255).astype(np.uint8)

    def run_float(self, frames, context_in=None):
        added = super().run_float(frames) + np.array([0.16, 0, 0], np.float32)
        return np.clip(added, 0, 1)


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "yuv420p"])
def test_gray_stays_gray(pix_fmt, make_film, tmp_path):
    film = Film(name="a.mkv", codec="ffv1", pix_fmt=pix_fmt, frames=3)
    done = restore(make_film(film), tmp_path / "out", Coloring())
    for frame in decoded(done.output):
        pixels = frame.to_ndarray(format="rgb24").astype(int)
        spread = np.ptp(pixels, axis=-1).max()
        assert spread > 20 if pix_fmt == "yuv420p" else spread == 0


def test_frames_of_another_size_get_bars_and_one_line(make_film, tmp_path):
    wide = make_film(Film(name="wide.h264", format="h264", size=(48, 96), frames=3),
                     paint=lambda _: np.full((48, 96, 3), 180, np.uint8))  # fmt: skip
    tall = make_film(Film(name="tall.h264", format="h264", size=(96, 48), frames=3),
                     paint=lambda _: np.full((96, 48, 3), 180, np.uint8))  # fmt: skip
    source = tmp_path / "both.h264"
    source.write_bytes(wide.read_bytes() + tall.read_bytes())
    done = restore(source, tmp_path / "out")
    assert done.notes == (
        "its frames change their size, to 48x96; they are fitted into 96x48 with black bars",
    )
    first, *_, last = (frame.to_ndarray(format="rgb24") for frame in decoded(done.output))
    assert first.shape == last.shape == (48, 96, 3)
    assert first[24].min() > 150
    levels = last[24].mean(-1)
    assert levels[:30].max() < 40  # 48x96 becomes 24x48
    assert levels[-30:].max() < 40
    assert levels[40:56].min() > 150


def ramp(number):
    """A gradient of 16 bits within the dark quarter."""
    levels = np.linspace(0, 65535 / 4, 256).astype(np.uint16)
    return np.repeat(np.repeat(levels[None, :, None], 64, 0), 3, 2)


@dataclass(frozen=True)
class DeepCase:
    """A video of 10 bits."""

    name: str
    transfer: int
    primaries: int
    parameters: str = ""

    def __str__(self):
        return self.name

    def film(self, suffix=".mov"):
        matrix = {9: 9, 1: 1}[self.primaries]
        parameters = (
            f"log-level=error:colorprim={self.primaries}:transfer={self.transfer}:"
            f"colormatrix={matrix}:crf=4{self.parameters}"
        )
        return Film(
            name=f"a{suffix}", codec="libx265", pix_fmt="yuv420p10le", size=(64, 256), frames=4,
            options=(("x265-params", parameters), ("preset", "ultrafast")),
        )  # fmt: skip


MASTERING = (
    ":hdr10=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
    "L(10000000,50):max-cll=1000,400"
)
DEEP = [DeepCase("HLG", HLG, 9), DeepCase("PQ", PQ, 9, MASTERING), DeepCase("SDR", 1, 1)]


def luma(frame):
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint16).reshape(frame.height, -1)[:, : frame.width].astype(int)


@pytest.mark.parametrize("case", DEEP, ids=str)
def test_10_bits_stay_10_bits_with_their_tags(case, make_film, tmp_path):
    source = make_film(case.film(), paint=ramp)
    done = restore(source, tmp_path / "out")
    assert done.notes == ()
    for before, after in zip(decoded(source), decoded(done.output), strict=True):
        assert after.format.name == "yuv420p10le"
        for tag in ("color_trc", "color_primaries", "colorspace", "color_range"):
            assert getattr(after, tag) == getattr(before, tag), tag
        assert np.abs(luma(after) - luma(before)).mean() < 1.5  # of 1023
        kinds = {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"}
        stated = [
            {data.type.name: bytes(data) for data in frame.side_data if data.type.name in kinds}
            for frame in (before, after)
        ]
        assert stated[0].keys() == (kinds if case.parameters else set())
        assert stated[0] == stated[1]


class Brightening(NullRunner):
    """Multiplies by 3."""

    def run(self, frames):
        return np.clip(super().run(frames).astype(int) * 3, 0, 255).astype(np.uint8)

    def run_float(self, frames, context_in=None):
        return np.clip(super().run_float(frames) * np.float32(3.0), 0, 1)


class Brightening8(Brightening):
    """Takes 8 bits alone."""

    takes_floats = False


def test_a_brightened_gradient_has_the_levels_of_10_bits(make_film, tmp_path):
    source = make_film(DEEP[2].film(".mkv"), paint=ramp)
    levels = {}
    for runner in (Brightening(), Brightening8()):
        done = restore(source, tmp_path / type(runner).__name__, runner)
        levels[type(runner)] = len(np.unique(luma(decoded(done.output)[1])[32]))
        says = [f"{runner.name} gives 8 bits alone" in note for note in done.notes]
        assert says == ([] if runner.takes_floats else [True])
    assert levels[Brightening] > 180  # 256 columns; 64 levels of 8 bits
    assert levels[Brightening8] < levels[Brightening]


def test_an_enlarging_runner_gives_a_larger_video_of_10_bits(make_film, tmp_path):
    done = restore(make_film(DEEP[0].film(), paint=ramp), tmp_path / "out", NullRunner(scale=2))
    (first, *_) = decoded(done.output)
    assert (first.width, first.height, first.format.name) == (512, 128, "yuv420p10le")


@pytest.mark.parametrize("transfer", [HLG, PQ])
@pytest.mark.parametrize("primaries", [1, 9])
def test_a_runner_that_changes_nothing_gives_the_source(transfer, primaries):
    levels = np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    deep = DeepRestoring(ColorTags(transfer=transfer, primaries=primaries))
    with single_runner_restorer(NullRunner()) as restorer:
        restored = deep.restore(levels, restorer)
    assert np.abs(restored.astype(int) - levels).max() <= 4  # of 65535, saturated colors included


def test_a_network_is_given_reference_white_at_three_quarters():
    # ITU-R BT.2408: 203 cd/m², 75 % of HLG, 58 % of PQ
    white = {HLG: 0.75, PQ: 0.5807}
    for transfer, signal in white.items():
        deep = DeepRestoring(ColorTags(transfer=transfer, primaries=9))
        given = deep.to_network(np.full((1, 1, 3), signal, np.float32))
        assert given == pytest.approx(0.75, abs=0.003)


def test_a_failed_frame_of_10_bits_is_written_unrestored(make_film, tmp_path):
    runner = NullRunner(failure=RuntimeError("out of memory"), fails_at=3, scale=2)
    done = restore(make_film(DEEP[0].film(), paint=ramp), tmp_path / "out", runner)
    assert (done.frames, done.failed) == (4, 2)


def write_transparent(path, codec, pix_fmt, *, frames=3, least=100, aspect=1):
    """Write a film whose alpha has a ramp from LEAST to 255 in each row."""
    pixels = np.full((48, 64, 4), 255, np.uint8)
    pixels[..., 3] = np.linspace(least, 255, 64).round()
    pixels[..., :3] = (180, 90, 30)
    options = {"auto-alt-ref": "0"} if codec.startswith("libvpx") else {}
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = 48, 64, pix_fmt
        video.codec_context.sample_aspect_ratio = Fraction(aspect)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


TRANSPARENT = [
    ("a.mov", "qtrle", "argb", "prores"), ("b.mov", "prores_ks", "yuva444p10le", "prores"),
    ("c.mov", "png", "rgba", "prores"), ("d.mkv", "ffv1", "yuva420p", "ffv1"),
    ("e.mkv", "ffv1", "gbrap10le", "ffv1"), ("f.avi", "png", "rgba", "ffv1"),
    ("g.webm", "libvpx-vp9", "yuva420p", "ffv1"), ("h.webm", "libvpx", "yuva420p", "ffv1"),
]  # fmt: skip


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "encoder"), TRANSPARENT, ids=[one[0] for one in TRANSPARENT]
)
def test_transparency_is_kept_where_the_container_holds_it(
    name, codec, pix_fmt, encoder, scale, tmp_path
):
    source = write_transparent(tmp_path / name, codec, pix_fmt, aspect=Fraction(4, 3))
    done = restore(source, tmp_path / "out", NullRunner(scale=scale))
    kept, *others = done.notes
    assert kept.startswith("its transparency is kept: the result is ")
    if name == "b.mov":  # FFmpeg decodes ProRes 4444 to 12 bits
        assert others.pop() == "it has 12 bits per channel; 10 of them are stored"
    # PyAV writes no pixel aspect ratio to Matroska
    assert others == (["the result lacks its pixel aspect ratio, 4/3"] if name == "f.avi" else [])
    frames = decoded(done.output)
    assert (len(frames), done.output.suffix) == (3, ".mov" if name.endswith("mov") else ".mkv")
    with av.open(str(done.output)) as container:
        assert container.streams.video[0].codec_context.name == encoder
        if name.endswith(".mov"):
            assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    pixels = frames[-1].to_ndarray(format="rgba")
    ramp = np.linspace(100, 255, 64 * scale)
    assert np.abs(pixels[..., 3] - ramp).max() <= (4 if "vp" in codec else 3 * scale)
    assert np.abs(pixels[..., :3].astype(int) - (180, 90, 30)).max() <= 8


def test_a_pixel_aspect_ratio_that_matroska_does_not_get_is_said(tmp_path):
    source = write_transparent(tmp_path / "a.mov", "qtrle", "argb", aspect=Fraction(4, 3))
    done = restore_video(
        source, single_runner_restorer(NullRunner()), tmp_path / "out", name="a.mkv"
    )
    assert done.notes[1:] == ("the result lacks its pixel aspect ratio, 4/3",)


@pytest.mark.parametrize(
    ("least", "name", "notes"),
    [
        (255, "a.mov", ()),
        (100, "a.mp4", ("the result lacks its transparency",)),
        (100, "a.gif", ("the result lacks its transparency",)),
    ],
)
def test_transparency_that_is_lost_is_said(least, name, notes, tmp_path):
    source = write_transparent(tmp_path / "a.mov", "qtrle", "argb", least=least)
    done = restore_video(source, single_runner_restorer(NullRunner()), tmp_path / "out", name=name)
    assert done.notes == notes
    with av.open(str(done.output)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


@dataclass(frozen=True)
class PixelsCase:
    """A video whose pixels are stored in one format, and in which they are kept."""

    name: str
    codec: str
    pix_fmt: str
    kept: str
    size: tuple[int, int] = (48, 64)
    notes: tuple[str, ...] = ()

    def __str__(self):
        return f"{self.name}-{self.pix_fmt}"

    def paint(self, number):
        """Columns of red and blue in turn, which 4:2:0 and 4:2:2 mix, and rows likewise."""
        pixels = np.zeros((*self.size, 3), np.uint8)
        pixels[..., 0], pixels[..., 2] = 200, 40
        pixels[:, ::2] = pixels[::2] = (40, 0, 200)
        if self.pix_fmt in ("gray16le", "yuv420p", "pal8"):
            pixels[:] = 90
        return pixels.astype(np.uint16) * 257 if "16" in self.pix_fmt else pixels


COARSER = "its colors are stored at half their resolution (4:2:0), as all players show them"
PIXELS = [
    PixelsCase("a.mp4", "libx264", "yuv420p", "yuv420p"),
    PixelsCase("a.mp4", "libx264", "yuv422p", "yuv422p"),
    PixelsCase("a.mp4", "libx264", "yuv444p", "yuv444p"),
    PixelsCase("a.avi", "mjpeg", "yuvj422p", "yuvj422p"),
    PixelsCase("a.mkv", "ffv1", "yuv411p", "yuv422p"),
    PixelsCase("a.mkv", "ffv1", "yuv440p", "yuv444p"),
    PixelsCase("a.mkv", "ffv1", "yuv422p", "yuv422p", (47, 64)),
    PixelsCase("a.mkv", "ffv1", "yuv422p", "yuv444p", (48, 63)),
    PixelsCase("a.avi", "png", "rgb24", "yuv444p"),
    PixelsCase("a.mov", "prores_ks", "yuv422p10le", "yuv422p10le"),
    PixelsCase("a.mkv", "ffv1", "yuv444p10le", "yuv444p10le"),
    PixelsCase("a.mkv", "ffv1", "yuv420p12le", "yuv420p12le"),
    PixelsCase("a.mkv", "ffv1", "yuv444p12le", "yuv444p12le"),
    PixelsCase("a.mkv", "ffv1", "gray16le", "yuv420p12le",
               notes=("it has 16 bits per channel; 12 of them are stored",)),
    PixelsCase("a.gif", "gif", "rgb8", "yuv420p", notes=(COARSER,)),
]  # fmt: skip


@pytest.mark.parametrize("case", PIXELS, ids=str)
def test_chroma_and_depth_are_kept_or_the_loss_is_said(case, make_film, tmp_path):
    film = Film(
        name=case.name, codec=case.codec, pix_fmt=case.pix_fmt, size=case.size, frames=3,
        options=(("crf", "2"),) if case.codec == "libx264" else (),
    )  # fmt: skip
    source = make_film(film, paint=case.paint)
    done = restore(source, tmp_path / "out")
    assert done.notes == case.notes
    for before, after in zip(decoded(source), decoded(done.output), strict=True):
        assert after.format.name == case.kept
        if case.pix_fmt != "rgb8":
            pair = [frame.to_ndarray(format="gbrp").astype(int) for frame in (before, after)]
            assert np.abs(pair[0] - pair[1]).mean() < 9


def test_a_single_frame_of_10_bits_is_decoded_when_it_is_shown():
    """libx265 gives it a decoding time of uninitialized memory, which muxers may refuse."""
    options = EncodingOptions(
        height=48, width=64, time_base=Fraction(1, 1000), rate=Fraction(25), color=ColorTags(),
        bits=10,
    )  # fmt: skip
    times = set()
    for _ in range(12):
        with av.open(io.BytesIO(), "w", format="matroska") as container:
            encoder = FrameEncoder(container, options)
            packets = encoder.encode(np.zeros((48, 64, 3), np.uint16), 0) + encoder.flush()
            times |= {(packet.pts, packet.dts) for packet in packets}
            container.mux(packets)
    assert times == {(0, 0)}


def test_bars_are_equal_on_both_sides():
    frame = av.VideoFrame(20, 40, "rgb24")
    for plane in frame.planes:
        plane.update(bytes([200]) * plane.buffer_size)
    pixels = RgbDecoder((40, 60), keeps_aspect=True).pixels(frame)
    assert pixels.shape == (40, 60, 3)
    assert (pixels[:, :20] == 0).all()
    assert (pixels[:, 40:] == 0).all()
    assert (pixels[:, 20:40] == 200).all()
