"""Read the samples of TIFF files with more than 8 bits, floats, or unusual channels.

Pillow reads RGB of 16 bits as 8, and OpenCV neither CMYK nor half floats; both read planes of 16
bits wrongly. So the bytes are decompressed by Pillow, as if they were gray of 8 bits, and what they
mean is decided here: byte order, predictor, planes, tiles, bits per sample.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# tags; TIFF 6.0, appendix A
WIDTH, HEIGHT, _BITS, _COMPRESSION, PHOTOMETRIC, _FILL = 256, 257, 258, 259, 262, 266
_OFFSETS, _SAMPLES, _ROWS, _LENGTHS, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_LENGTHS = 322, 323, 324, 325
EXTRA_SAMPLES, _FORMAT = 338, 339
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2  # bits of the one, a value of the other; pages 36 and 40
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_DEFAULTS = {_BITS: (1,), _COMPRESSION: (1,), _SAMPLES: (1,), _PLANAR: (1,), _PREDICTOR: (1,),
             _FILL: (1,), _FORMAT: (1,), EXTRA_SAMPLES: (), PHOTOMETRIC: (1,)}  # fmt: skip
# none, LZW, Deflate twice, PackBits, LZMA, Zstandard: any bytes, not images
_OF_BYTES = frozenset((1, 5, 8, 32946, 32773, 34925, 50000))
UNSIGNED, SIGNED, FLOATING = 1, 2, 3
_HORIZONTAL, _OF_FLOATS = 2, 3
_MOST_PAGES, _MOST_VALUES, _MOST_CHANNELS = 4096, 1 << 20, 32
_GROUP_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class TiffPage:
    """A page of a TIFF by its directory."""

    number: int
    order: str
    """Of bytes, for struct: < or >."""
    tags: dict[int, tuple[int, ...]]
    """Of those with whole numbers."""

    def values(self, tag: int) -> tuple[int, ...]:
        """Return the values of a tag; its defaults where it is not there.

        Raises:
            OSError: It has neither.
        """
        found = self.tags.get(tag) or _DEFAULTS.get(tag)
        if found is None:
            raise OSError(f"its tag {tag} is missing")
        return found

    def value(self, tag: int) -> int:
        """Return the first value of a tag."""
        return self.values(tag)[0]

    @property
    def bits(self) -> int:
        """Return the bits of a sample, of the deepest channel."""
        return max(self.values(_BITS))

    @property
    def sample_format(self) -> int:
        """Return what samples are: `UNSIGNED`, `SIGNED` or `FLOATING`."""
        return self.value(_FORMAT)

    @property
    def channels(self) -> int:
        """Return the number of channels, the extra ones included."""
        return self.value(_SAMPLES)

    @property
    def is_part(self) -> bool:
        """Return whether it is a reduced copy or a mask of another page."""
        kind = self.tags.get(_NEW_SUBFILE_TYPE, (0,))[0]
        return bool(kind & (_REDUCED | _MASK)) or self.tags.get(_SUBFILE_TYPE) == (_OLD_REDUCED,)


def read_main_pages(payload: bytes) -> list[TiffPage]:
    """Return the pages of a TIFF that are no reduced copies or masks of another; all if none is.

    Raises:
        OSError: It is damaged.
    """
    pages = list(_pages(payload))
    return [page for page in pages if not page.is_part] or pages


def _pages(payload: bytes) -> Iterator[TiffPage]:
    order = {b"II": "<", b"MM": ">"}.get(payload[:2], "<")
    try:
        is_big = struct.unpack_from(f"{order}H", payload, 2)[0] == 43
        place = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", payload, 8 if is_big else 4)
        seen: set[int] = set()
        (at,) = place
        while at and at not in seen and len(seen) < _MOST_PAGES:
            tags, following = _directory(payload, at, order, is_big=is_big)
            yield TiffPage(number=len(seen), order=order, tags=tags)
            seen.add(at)
            at = following
    except struct.error as error:
        raise OSError("its directory is cut off") from error


def _directory(
    payload: bytes, place: int, order: str, *, is_big: bool
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the tags of a directory and the place of the next one, 0 where there is none."""
    number, size = ("Q", 20) if is_big else ("I", 12)
    kind = "Q" if is_big else "H"
    (count,) = struct.unpack_from(f"{order}{kind}", payload, place)
    start = place + struct.calcsize(f"={kind}")
    if start + count * size > len(payload):
        raise OSError("its directory is cut off")
    tags = {}
    for at in range(start, start + count * size, size):
        tag, type_, length = struct.unpack_from(f"{order}HH{number}", payload, at)
        if type_ in _TYPES and 0 < length <= _MOST_VALUES:
            form = f"{order}{length}{_TYPES[type_]}"
            inner = at + 4 + struct.calcsize(f"={number}")
            if struct.calcsize(form) > size - (inner - at):
                (inner,) = struct.unpack_from(f"{order}{number}", payload, inner)
            if inner + struct.calcsize(form) <= len(payload):
                tags[tag] = struct.unpack_from(form, payload, inner)
    (following,) = struct.unpack_from(f"{order}{number}", payload, start + count * size)
    return tags, following


def decode_samples(payload: bytes, page: TiffPage) -> NDArray[Any]:
    """Return the samples of a page as they are stored, not turned: (H, W, C) of any number type.

    Fewer bits than a type has are in its lower part.

    Args:
        payload: The file.
        page: Of the file.

    Raises:
        ImageError: They are stored in a way that is not read.
        OSError: Some are missing, too many, or cannot be decompressed.
        PIL.Image.DecompressionBombError: The page is larger than Pillow's limit.
    """
    from PIL import Image

    height, width = page.value(HEIGHT), page.value(WIDTH)
    if not 0 < page.channels <= _MOST_CHANNELS or not height * width > 0:
        raise OSError(f"it claims {page.channels} channels of {width}x{height}")
    if Image.MAX_IMAGE_PIXELS and height * width > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"it claims {width}x{height}")
    if page.value(_COMPRESSION) not in _OF_BYTES:
        raise ImageError(
            f"its {page.bits}-bit samples are compressed by method {page.value(_COMPRESSION)}; "
            "expected none, LZW, Deflate, PackBits, LZMA or Zstandard"
        )
    if len(set(page.values(_BITS))) > 1:
        raise ImageError(f"its channels have {page.values(_BITS)} bits; expected equal ones")
    is_planar = page.value(_PLANAR) == 2 and page.channels > 1
    if not is_planar:
        return _Plane(payload, page, page.channels).samples(0)
    plane = _Plane(payload, page, 1)
    return np.concatenate([plane.samples(number) for number in range(page.channels)], axis=2)


class _Plane:
    """The strips or tiles of all channels together, or of each channel by itself."""

    def __init__(self, payload: bytes, page: TiffPage, channels: int) -> None:
        """Read how they lie in the page."""
        self._payload, self._page, self._channels = payload, page, channels
        self._height, width = page.value(HEIGHT), page.value(WIDTH)
        self._is_tiled = _TILE_OFFSETS in page.tags
        if self._is_tiled:
            self._unit, self._rows = page.value(_TILE_WIDTH), page.value(_TILE_HEIGHT)
            self._across = -(-width // max(1, self._unit))
            places = page.values(_TILE_OFFSETS), page.values(_TILE_LENGTHS)
        else:
            self._unit, self._across = width, 1
            self._rows = min(page.tags.get(_ROWS, (self._height,))[0], self._height)
            places = page.values(_OFFSETS), page.values(_LENGTHS)
        if not (0 < self._unit <= 1 << 24 and 0 < self._rows <= 1 << 24):
            raise OSError(f"its parts have {self._rows} rows of {self._unit}")
        self._offsets, self._lengths = places
        self._width = width
        self._unit_bytes = -(-self._unit * channels * page.bits // 8)
        self._down = -(-self._height // self._rows)

    def samples(self, plane: int) -> NDArray[Any]:
        """Return the samples of a plane, (H, W, its channels)."""
        step = max(1, _GROUP_BYTES // max(1, self._rows * self._across * self._unit_bytes))
        groups = [
            self._group(plane, top, min(top + step, self._down))
            for top in range(0, self._down, step)
        ]
        return np.concatenate(groups)[: self._height, : self._width]

    def _group(self, plane: int, top: int, bottom: int) -> NDArray[Any]:
        """Return the samples of the strips, or rows of tiles, from TOP up to BOTTOM."""
        first = (plane * self._down + top) * self._across
        last = (plane * self._down + bottom) * self._across
        if last > min(len(self._offsets), len(self._lengths)):
            raise OSError("some of its strips or tiles are missing")
        rows = (bottom - top) * self._rows
        if not self._is_tiled:
            rows = min(rows, self._height - top * self._rows)
        content = self._decompressed(first, last, rows)
        units = content.reshape(rows, self._across, self._unit_bytes)
        numbers = _numbers(units, self._page, self._unit * self._channels, self._channels)
        return numbers.reshape(rows, -1, self._channels)

    def _decompressed(self, first: int, last: int, rows: int) -> NDArray[np.uint8]:
        """Return the bytes of some strips or tiles, (rows, bytes), by way of a gray TIFF."""
        from PIL import Image

        width = self._across * self._unit_bytes
        parts, places, lengths = [b"II*\0\0\0\0\0"], [], []
        size = 8
        for number in range(first, last):
            start, length = self._offsets[number], self._lengths[number]
            part = self._payload[start : start + length]
            if len(part) < length:
                raise OSError("it is cut off")
            places.append(size)
            lengths.append(length)
            parts.append(part)
            size += length
        tags: dict[int, list[int]] = {
            WIDTH: [width], HEIGHT: [rows], _BITS: [8], PHOTOMETRIC: [1], _SAMPLES: [1],
            _COMPRESSION: [self._page.value(_COMPRESSION)], _FILL: [self._page.value(_FILL)],
        }  # fmt: skip
        if self._is_tiled:
            tags |= {_TILE_WIDTH: [self._unit_bytes], _TILE_HEIGHT: [self._rows],
                     _TILE_OFFSETS: places, _TILE_LENGTHS: lengths}  # fmt: skip
        else:
            tags |= {_ROWS: [self._rows], _OFFSETS: places, _LENGTHS: lengths}
        payload = _with_directory(b"".join(parts), tags)
        with Image.open(io.BytesIO(payload), formats=("TIFF",)) as image:
            return np.asarray(image, np.uint8)


def _with_directory(content: bytes, tags: dict[int, list[int]]) -> bytes:
    """Return a little-endian TIFF of these bytes, with a directory of long values behind them."""
    content += b"\0" * (len(content) % 2)
    directory, more = struct.pack("<H", len(tags)), b""
    after = len(content) + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        inline = packed if len(values) == 1 else struct.pack("<I", after + len(more))
        more += b"" if len(values) == 1 else packed
        directory += struct.pack("<HHI", tag, 4, len(values)) + inline
    header = content[:4] + struct.pack("<I", len(content)) + content[8:]
    return header + directory + bytes(4) + more


def _numbers(units: NDArray[np.uint8], page: TiffPage, count: int, channels: int) -> NDArray[Any]:
    """Return (rows, units, COUNT) samples of (rows, units, bytes)."""
    bits, predictor = page.bits, page.value(_PREDICTOR)
    if predictor == _OF_FLOATS:
        return _sums_of_floats(units, page, count, channels)
    if bits in (8, 16, 32, 64):
        kind = {UNSIGNED: "u", SIGNED: "i", FLOATING: "f"}.get(page.sample_format, "u")
        if kind == "f" and bits == 8:
            raise ImageError("its samples are floats of 8 bits")
        values = units.view(f"{page.order}{kind}{bits // 8}")
        if predictor != _HORIZONTAL:
            return values
        whole = values.view(f"{page.order}u{bits // 8}").astype(f"u{bits // 8}")
        pixels = whole.reshape(*whole.shape[:2], -1, channels)
        summed = np.cumsum(pixels, axis=2, dtype=pixels.dtype).reshape(whole.shape)
        return summed.view(f"{kind}{bits // 8}")
    if predictor != 1 or not bits < 16 or page.sample_format != UNSIGNED:
        raise ImageError(f"its samples of {bits} bits are stored as differences or floats")
    powers = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint16)
    single = np.unpackbits(units, axis=2, count=count * bits)
    values = single.reshape(*units.shape[:2], count, bits) @ powers
    return np.asarray(values, np.uint16)


def _sums_of_floats(
    units: NDArray[np.uint8], page: TiffPage, count: int, channels: int
) -> NDArray[Any]:
    """Return floats whose bytes are stored by place in the float, as differences (TIFF note 3)."""
    size = page.bits // 8
    if page.sample_format != FLOATING or size not in (2, 4, 8):
        raise ImageError("its predictor is that of floats, its samples are none")
    pixels = units.reshape(*units.shape[:2], -1, channels)
    summed = np.cumsum(pixels, axis=2, dtype=np.uint8).reshape(*units.shape[:2], size, count)
    together = np.ascontiguousarray(summed.swapaxes(2, 3))
    return together.view(f">f{size}")[..., 0]
