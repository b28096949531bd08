"""Kinds of images by content: those read, those that need a package, what a folder leaves out."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from mirnet_edge import dependencies
from mirnet_edge.errors import ImageError
from mirnet_edge.images import kinds
from mirnet_edge.images.files import ImageFile, read_image, result_name, to_gray, write_image
from mirnet_edge.images.jpeg_tail import with_end_marker
from mirnet_edge.images.kinds import why_left_out
from mirnet_edge.images.metadata import heif_bits
from mirnet_edge.runtime.restore import restore_file, restore_files, restore_image
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.files.recognition import is_video


def _frame(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _saved(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(_frame())).save(buffer, kind, **options)
    return buffer.getvalue()


# kinds that are kept


_GRAY = [("a.png", "L"), ("a.jpg", "L"), ("a.tif", "L"), ("a.tif", "1"), ("a.png", "1")]


@pytest.mark.parametrize(("name", "mode"), _GRAY)
def test_gray_stays_gray(name, mode, tmp_path):
    Image.fromarray(_frame()).convert(mode).save(tmp_path / name)
    (one,) = restore_files([tmp_path / name], _Tinting(), tmp_path / "out")
    with Image.open(one.output) as image:
        # the result of black and white has levels between
        assert image.mode == "L"


def test_a_palette_of_gray_is_gray_and_one_of_colors_is_not(tmp_path):
    gray = Image.fromarray(_frame()).convert("L").convert("P")
    gray.save(tmp_path / "a.png")
    Image.fromarray(_frame()).quantize(8).save(tmp_path / "b.png")
    done = restore_files([tmp_path / "a.png", tmp_path / "b.png"], _Tinting(), tmp_path / "out")
    modes = []
    for one in done:
        with Image.open(one.output) as image:
            modes.append(image.mode)
    assert modes == ["L", "RGB"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "b.tif"])
def test_gray_that_is_stored_as_rgb_keeps_equal_channels(name, tmp_path):
    gray = Image.fromarray(_frame()).convert("L")
    if name == "b.tif":
        levels = np.asarray(gray).astype(np.uint16)[..., None].repeat(3, axis=2) * 250
        cv2.imwrite(str(tmp_path / name), levels)
    else:
        gray.convert("RGB").save(tmp_path / name, lossless=True)
    (one,) = restore_files([tmp_path / name], _Tinting(), tmp_path / "out")
    read = read_image(one.output)
    pixels = read.frame if read.deep is None else read.deep
    assert not read.gray
    np.testing.assert_array_equal(pixels, pixels[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("suffix", ["avif", "heic"])
def test_gray_of_phones_is_gray(suffix, tmp_path):
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    source = ImageFile(frame=to_gray(_frame()), gray=True)
    write_image(tmp_path / f"a.{suffix}", source)
    (one,) = restore_files([tmp_path / f"a.{suffix}"], _Tinting(), tmp_path / "out")
    with Image.open(one.output) as image:
        assert image.mode == "L"


def test_a_lossless_webp_stays_lossless(tmp_path):
    for name, options in (("a.webp", {"lossless": True}), ("b.webp", {"quality": 95})):
        Image.fromarray(_frame()).save(tmp_path / name, **options, exif=b"Exif\0\0II*\0\0\0\0\0")
    done = restore_files([tmp_path / "a.webp", tmp_path / "b.webp"], NullRunner(), tmp_path / "out")
    same = [
        np.array_equal(read_image(one.output).frame, read_image(one.source).frame) for one in done
    ]
    assert same == [True, False]


def test_more_bits_than_are_read_are_said(tmp_path, caplog):
    pillow_heif = pytest.importorskip("pillow_heif")
    levels = np.random.default_rng(0).integers(0, 65536, (16, 16, 3), np.uint16)
    deep = pillow_heif.from_bytes(mode="RGB;16", size=(16, 16), data=levels.tobytes())
    deep.save(tmp_path / "a.heic")
    read_image(tmp_path / "a.heic")
    assert "a.heic has 10 bits per channel; 8 of them are read" in caplog.text
    caplog.clear()
    # an AV1 configuration: marker, profile, then flags, of which 0x40 says 10 bits
    assert heif_bits(b"....av1C\x81\0\x4c\0\0\0\0\0") == 10
    assert heif_bits(b"....av1C\x81\0\x0c\0\0\0\0\0") == 8


def test_gray_with_alpha_keeps_both(tmp_path):
    gray = Image.fromarray(_frame()).convert("L")
    gray.putalpha(Image.fromarray(_frame(seed=1)[..., 0]))
    gray.save(tmp_path / "a.png")
    (one,) = restore_files([tmp_path / "a.png"], _Tinting(), tmp_path / "out")
    with Image.open(one.output) as image:
        assert image.mode == "LA"
        np.testing.assert_array_equal(np.asarray(image)[..., 1], np.asarray(gray)[..., 1])


class _Tinting(NullRunner):
    """Gives channels that differ, as a network does for gray."""

    def run(self, frames):
        restored = super().run(frames).astype(int)
        return (restored + np.array([3, 0, -3])).clip(0, 255).astype(np.uint8)

    def run_float(self, frames, context_in=None):
        restored = super().run_float(frames, context_in)
        return (restored + np.float32([0.01, 0, -0.01])).clip(0, 1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_come_out_as_they_went_in(suffix, channels, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(cv2.imencode(f".{suffix}", deep)[1].tobytes())
    read = read_image(path)
    with NullRunner() as runner:
        restored = restore_image(runner, read)
    np.testing.assert_array_equal(restored.deep, read.deep)
    write_image(tmp_path / f"b.{suffix}", restored)
    again = cv2.imread(str(tmp_path / f"b.{suffix}"), cv2.IMREAD_UNCHANGED)
    assert again.dtype == np.uint16
    np.testing.assert_array_equal(again.reshape(deep.shape), deep)


def test_a_gradient_of_16_bits_has_no_bands(tmp_path):
    """A dark ramp over 1024 columns: from 8 bits it would have 10 levels, and so 10 bands."""
    ramp = np.linspace(0, 10 * 257, 1024).astype(np.uint16)
    deep = ramp[None, :, None].repeat(16, 0).repeat(3, 2)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    (one,) = restore_files([tmp_path / "a.png"], NullRunner(), tmp_path / "out")
    levels = read_image(one.output).deep[0, :, 0].astype(int)
    assert len(np.unique(levels)) > 1000
    assert np.diff(levels).max() <= 3


def test_16_bits_of_a_runner_of_8_are_written_with_a_line(tmp_path, caplog):
    class EightBits(NullRunner):
        takes_floats = False

    deep = np.random.default_rng(0).integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    (one,) = restore_files([tmp_path / "a.png"], EightBits(), tmp_path / "out")
    assert read_image(one.output).source_bits == 16
    assert "null gives 8 bits alone: images of 16 bits are written with 256 levels" in caplog.text


def test_alpha_of_16_bits_is_enlarged_with_the_image(tmp_path):
    deep = np.full((6, 8, 4), 40_000, np.uint16)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    (one,) = restore_files([tmp_path / "a.png"], NullRunner(scale=2), tmp_path / "out")
    np.testing.assert_array_equal(read_image(one.output).deep_alpha, np.full((12, 16), 40_000))


# alpha, pages, ends


def test_opaque_alpha_does_not_keep_a_jpeg_from_being_written(tmp_path):
    opaque = Image.fromarray(_frame()).convert("RGBA")
    (tmp_path / "a.jpg").write_bytes(_saved("PNG", opaque))
    (one,) = restore_files([tmp_path / "a.jpg"], NullRunner(), tmp_path / "out")
    with Image.open(one.output) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")


def _pages(*subfiles):
    """Return a TIFF of pages with these NewSubfileTypes, each of another size."""
    images = [Image.fromarray(_frame(10 + page, 20)) for page in range(len(subfiles))]
    buffer = io.BytesIO()
    images[0].save(buffer, "TIFF", save_all=True, append_images=images[1:])
    content = bytearray(buffer.getvalue())
    place = struct.unpack_from("<I", content, 4)[0]
    for subfile in subfiles:
        (count,) = struct.unpack_from("<H", content, place)
        # BitsPerSample of three values is not needed to read RGB; its place takes the new tag
        entries = [content[place + 2 + 12 * one : place + 14 + 12 * one] for one in range(count)]
        unneeded = next(one for one in entries if struct.unpack("<H", one[:2])[0] in (284, 296))
        entries.remove(unneeded)
        entries.insert(0, struct.pack("<HHII", 254, 4, 1, subfile))
        content[place + 2 : place + 2 + 12 * count] = b"".join(entries)
        (place,) = struct.unpack_from("<I", content, place + 2 + 12 * count)
    return bytes(content)


@pytest.mark.parametrize(
    ("subfiles", "height"), [((0, 1), 10), ((1, 0), 11), ((1, 0, 4), 11), ((0, 1, 1), 10)], ids=str
)
def test_reduced_copies_and_masks_of_a_tiff_are_passed_over(subfiles, height, tmp_path):
    (tmp_path / "a.tif").write_bytes(_pages(*subfiles))
    assert read_image(tmp_path / "a.tif").frame.shape == (height, 20, 3)


@pytest.mark.parametrize(("subfiles", "count"), [((0, 0), 2), ((1, 1), 2), ((0, 1, 2), 2)], ids=str)
def test_several_pages_are_still_refused(subfiles, count, tmp_path):
    (tmp_path / "a.tif").write_bytes(_pages(*subfiles))
    with pytest.raises(ImageError, match=f"holds {count} images"):
        read_image(tmp_path / "a.tif")


_JPEGS = [
    pytest.param({}, id="sequential"),
    pytest.param({"progressive": True}, id="progressive"),
    pytest.param({"subsampling": 0, "restart_marker_rows": 1}, id="restarts"),
]


@pytest.mark.parametrize("options", _JPEGS)
@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_lacks_its_end_marker_is_read_with_a_line(options, cut, mode, tmp_path, caplog):
    whole = _saved("JPEG", Image.fromarray(_frame(75, 91)).convert(mode), **options)
    (tmp_path / "a.jpg").write_bytes(whole[:-cut])
    (tmp_path / "b.jpg").write_bytes(whole)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.jpg").frame, read_image(tmp_path / "b.jpg").frame
    )
    assert caplog.text.count("a.jpg lacks its end marker; all its pixels are there") == 1
    assert "b.jpg" not in caplog.text


@pytest.mark.parametrize("options", _JPEGS)
@pytest.mark.parametrize("cut", [4, 5, 9, 50, 700])
def test_a_jpeg_that_lacks_pixels_is_refused(options, cut, tmp_path):
    content = _saved("JPEG", Image.fromarray(_frame(75, 91)), **options)[:-cut]
    assert with_end_marker(content) is None
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match="is damaged"):
        read_image(tmp_path / "a.jpg")


def test_a_jpeg_cut_off_between_two_scans_is_refused():
    content = _saved("JPEG", Image.fromarray(_frame(75, 91)), progressive=True)
    last_scan = content.rindex(b"\xff\xda")
    tables = content.rindex(b"\xff\xc4", 0, last_scan)
    for place in (last_scan, tables):
        assert with_end_marker(content[:place]) is None


@pytest.mark.parametrize("cut", [1, 4, 11, 12])
def test_a_png_that_lacks_its_end_is_read_with_a_line(cut, tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(_saved("PNG")[:-cut])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").frame, _frame())
    assert "a.png lacks its end marker" in caplog.text


# kinds of files


@pytest.mark.parametrize("suffix", ["avif", "heic"])
def test_what_phones_save_is_read_and_written(suffix, tmp_path):
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    ramp = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    write_image(tmp_path / f"a.{suffix}", ImageFile(frame=np.dstack([ramp] * 3)))
    (one,) = restore_files([tmp_path / f"a.{suffix}"], NullRunner(), tmp_path / "out")
    read = read_image(one.output)
    assert one.output.name == f"a.{suffix}"
    assert read.format == {"avif": "AVIF", "heic": "HEIF"}[suffix]
    assert np.abs(read.frame.astype(int) - ramp[..., None]).max() < 6


_HEIC_HEAD = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic"


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("a.heic", _HEIC_HEAD, 'pip install "mirnet-edge[heic]"'),
        ("a.jpg", _HEIC_HEAD, 'pip install "mirnet-edge[heic]"'),
        ("a.CR2", b"II*\0\x10\0\0\0CR\2\0", 'pip install "mirnet-edge[raw]"'),
        ("a.nef", b"MM\0*" + bytes(60), 'pip install "mirnet-edge[raw]"'),
        ("a.raf", b"FUJIFILMCCD-RAW 0201", 'pip install "mirnet-edge[raw]"'),
    ],
)
def test_a_kind_that_needs_a_package_says_how_to_install_it(
    name, content, command, tmp_path, monkeypatch
):
    for package in ("pillow_heif", "rawpy"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setattr(kinds, "available", lambda package: False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as raised:
        read_image(tmp_path / name)
    assert command in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / name))
    assert command in kinds.why_left_out(tmp_path / name)
    assert dependencies.EXTRAS["pillow_heif"] == "heic"


def _dng(height=32, width=48):
    """Return a DNG of a flat gray: one Bayer plane of 16 bits, written by hand."""
    values = {
        254: (4, [0]), 256: (4, [width]), 257: (4, [height]), 258: (3, [16]), 259: (3, [1]),
        262: (3, [32803]), 271: (2, b"Maker\0"), 272: (2, b"Model\0"), 273: (4, [8]),
        274: (3, [1]), 277: (3, [1]), 278: (4, [height]), 279: (4, [2 * height * width]),
        33421: (3, [2, 2]), 33422: (1, bytes([0, 1, 1, 2])), 50706: (1, bytes([1, 4, 0, 0])),
        50708: (2, b"Unique\0"), 50717: (4, [65535]), 50778: (3, [21]),
    }  # fmt: skip
    matrix = [32404542, 15371385, 4985314, 9692660, 18760108, 415560, 556434, 2040259, 10572252]
    content = np.full((height, width), 20_000, "<u2").tobytes()
    directory, beside = struct.pack("<H", len(values) + 1), b""
    place = 8 + len(content) + 2 + 12 * (len(values) + 1) + 4
    for tag in sorted([*values, 50721]):
        if tag == 50721:
            kind, packed = 10, b"".join(struct.pack("<ii", one, 10**7) for one in matrix)
            count = 9
        else:
            kind, items = values[tag]
            count = len(items)
            form = {3: "H", 4: "I"}.get(kind)
            packed = struct.pack(f"<{count}{form}", *items) if form else bytes(items)
        directory += struct.pack("<HHI", tag, kind, count)
        if len(packed) > 4:
            directory += struct.pack("<I", place + len(beside))
            beside += packed + b"\0" * (len(packed) % 2)
        else:
            directory += packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + bytes(4) + beside


def test_a_raw_file_becomes_a_tiff_of_16_bits(tmp_path):
    pytest.importorskip("rawpy")
    (tmp_path / "a.dng").write_bytes(_dng())
    (one,) = restore_files([tmp_path / "a.dng"], NullRunner(), tmp_path / "out")
    assert one.output.name == "a.tif"
    read = read_image(one.output)
    assert read.source_bits == 16
    assert read.frame.shape == (32, 48, 3)
    with Image.open(one.output) as image:
        assert image.tag_v2[272] == "Model"


def test_the_result_of_a_file_without_a_fitting_suffix_has_that_of_its_content(tmp_path):
    (tmp_path / "photo").write_bytes(_saved("JPEG"))
    (tmp_path / "photo.bak").write_bytes(_saved("PNG"))
    assert result_name(tmp_path / "photo") == "photo.jpg"
    assert result_name(tmp_path / "photo.bak") == "photo.bak.png"
    assert result_name(tmp_path / "absent") == "absent"
    assert result_name(tmp_path / "letter.txt") == "letter.txt"


READ_ONLY = [
    ("a.bmp", "RGB"), ("a.bmp", "L"), ("a.bmp", "1"), ("a.bmp", "P"),
    ("a.gif", "P"), ("a.ppm", "RGB"), ("a.pgm", "L"), ("a.pbm", "1"), ("a.pgm", "I;16"),
    ("a.jp2", "RGB"), ("a.jp2", "L"), ("a.jp2", "I;16"), ("a.j2k", "RGBA"), ("a.ico", "RGBA"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), READ_ONLY, ids=[f"{n}-{m}" for n, m in READ_ONLY])
def test_what_is_read_alone_becomes_a_png(name, mode, tmp_path):
    rows, columns = np.mgrid[:32, :32]
    colors = np.stack([8 * rows, 8 * columns, 4 * (rows + columns)], -1).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(257 * colors[..., 2].astype(np.uint16))
    elif mode == "RGBA":
        image = Image.fromarray(np.dstack([colors, np.where(rows < 16, 255, 90)]).astype(np.uint8))
    else:
        image = Image.fromarray(colors).convert(mode)
    source = tmp_path / name
    options = {"irreversible": False} if name.startswith("a.j") else {}
    image.save(source, **options)
    assert why_left_out(source) is None
    assert not is_video(source)
    assert result_name(source) == f"{source.stem}.png"
    output = tmp_path / "out" / result_name(source)
    with NullRunner() as runner:
        restore_file(source, runner, output)
    with Image.open(output) as after:
        if mode == "I;16":
            assert (np.asarray(after) == np.asarray(image)).all()
            return
        assert after.mode in ({"RGB": "RGB", "P": "RGB", "RGBA": "RGBA"}.get(mode, "L"),)
        assert (np.asarray(after.convert("RGBA")) == np.asarray(image.convert("RGBA"))).all()


def test_a_compressed_bmp_is_read(tmp_path):
    """RLE8, as old programs write it: pairs of a count and an index, and marks of ends."""
    palette = bytes((value, value, 0, 0)[index] for value in range(256) for index in range(4))
    data = bytes([4, 200, 0, 0, 4, 50, 0, 1])  # two rows of four pixels, from below
    header = struct.pack(
        "<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, len(data), 2835, 2835, 256, 0
    )  # fmt: skip
    start = 14 + len(header) + len(palette)
    content = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    (tmp_path / "a.bmp").write_bytes(content + header + palette + data)
    frame = read_image(tmp_path / "a.bmp").frame
    assert frame.shape == (2, 4, 3)
    assert (frame[0] == (0, 50, 50)).all()
    assert (frame[1] == (0, 200, 200)).all()


@pytest.mark.parametrize(
    "head",
    [b"BM is short for a benchmark, 2026", b"P2 was written", b"\0\0\1\0" + bytes(40),
     b"\0\0\1\xb3\x16\0\xf0"],
)  # fmt: skip
def test_texts_and_streams_are_no_old_images(head, tmp_path):
    assert kinds.recognize(head, tmp_path / "a") is None


def test_files_of_a_folder_are_images_or_left_out_for_a_reason(tmp_path):
    contents = {
        "a.jpg": _saved("JPEG"), "b.JPEG": _saved("JPEG"), "without suffix": _saved("PNG"),
        "damaged.png": b"damaged", "old.bmp": _saved("BMP"), "layers.psd": b"8BPS" + bytes(60),
        "still.gif": _saved("GIF"), "new.jxl": b"\xff\x0a" + bytes(60),
        "film.mp4": struct.pack(">I", 24) + b"ftypisom" + bytes(16), "letter.txt": b"Dear",
        "nothing": b"",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    reasons = {name: kinds.why_left_out(tmp_path / name) for name in contents}
    assert [name for name, reason in reasons.items() if reason is None] == [
        "a.jpg", "b.JPEG", "without suffix", "damaged.png", "old.bmp", "still.gif",
    ]  # fmt: skip
    assert {name: reason for name, reason in reasons.items() if reason} == {
        "film.mp4": "no image",
        "layers.psd": "a Photoshop document",
        "letter.txt": "no image",
        "new.jxl": "a JPEG XL image; convert it to PNG",
        "nothing": "empty",
    }
    assert kinds.is_video_content(tmp_path / "film.mp4")
    assert not kinds.is_video_content(tmp_path / "a.jpg")
    assert not kinds.is_video_content(tmp_path / "letter.txt")
