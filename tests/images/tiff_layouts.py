"""Write TIFF files in layouts that no library writes."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

DEFLATE, RGB, GRAY, CMYK = 8, 2, 1, 5


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a TIFF stores its samples."""

    dtype: str = "u2"
    channels: int = 3
    order: str = "<"
    is_big: bool = False
    is_planar: bool = False
    is_tiled: bool = False
    compression: int = 1
    predictor: int = 1
    photometric: int = RGB
    extra: tuple[int, ...] = ()

    def __str__(self):
        words = {
            "planar": self.is_planar, "tiled": self.is_tiled, "big": self.is_big,
            f"method {self.compression}": self.compression > 1,
            f"predictor {self.predictor}": self.predictor > 1,
        }  # fmt: skip
        kind = f"{self.dtype}x{self.channels}{self.order}"
        return " ".join([kind, *(word for word, is_so in words.items() if is_so)])


def _stored(part, layout):
    """Return the bytes of a strip or tile, (rows, columns, channels)."""
    rows, columns, channels = part.shape
    size = part.itemsize
    if layout.predictor == 3:
        by_place = part.astype(f">f{size}").view(np.uint8).reshape(rows, columns * channels, size)
        content = by_place.swapaxes(1, 2).reshape(rows, -1, channels)
        content = np.diff(content, axis=1, prepend=np.uint8(0)).astype(np.uint8)
    else:
        whole = part.view(f"u{size}")
        if layout.predictor == 2:
            whole = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
        content = whole.astype(f"{layout.order}u{size}")
    raw = content.tobytes()
    return zlib.compress(raw) if layout.compression == DEFLATE else raw


def write_tiff(samples, layout):
    """Return a TIFF of (H, W, C) samples."""
    height, width, channels = samples.shape
    planes = [samples[..., place : place + 1] for place in range(channels)]
    side = 16
    parts = []
    for plane in planes if layout.is_planar else [samples]:
        if layout.is_tiled:
            padding = (-height % side, -width % side)
            padded = np.pad(plane, [(0, padding[0]), (0, padding[1]), (0, 0)], mode="edge")
            parts += [
                padded[top : top + side, left : left + side]
                for top in range(0, height, side)
                for left in range(0, width, side)
            ]
        else:
            parts += [plane[top : top + 8] for top in range(0, height, 8)]
    head = 16 if layout.is_big else 8
    content, offsets, lengths = b"", [], []
    for part in parts:
        packed = _stored(np.ascontiguousarray(part), layout)
        offsets.append(head + len(content))
        lengths.append(len(packed))
        content += packed
    tags = {
        256: [width], 257: [height], 258: [8 * samples.itemsize] * channels,
        259: [layout.compression], 262: [layout.photometric], 277: [channels],
        284: [2 if layout.is_planar else 1], 317: [layout.predictor],
        339: [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * channels,
    }  # fmt: skip
    if layout.extra:
        tags[338] = list(layout.extra)
    if layout.is_tiled:
        tags |= {322: [side], 323: [side], 324: offsets, 325: lengths}
    else:
        tags |= {273: offsets, 278: [8], 279: lengths}
    return with_tags(content, tags, layout)


def with_tags(content, tags, layout):
    """Return a TIFF of bytes that lie behind its header, with a directory behind them."""
    order, is_big = layout.order, layout.is_big
    number, entry, head = ("Q", 20, 16) if is_big else ("I", 12, 8)
    count = struct.pack(f"{order}{'Q' if is_big else 'H'}", len(tags))
    after = head + len(content)
    place = after + len(count) + entry * len(tags) + struct.calcsize(f"={number}")
    directory, beside = count, b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        directory += struct.pack(f"{order}HH{number}", tag, 4, len(values))
        room = struct.calcsize(f"={number}")
        if len(packed) > room:
            directory += struct.pack(f"{order}{number}", place + len(beside))
            beside += packed
        else:
            directory += packed.ljust(room, b"\0")
    mark = {"<": b"II", ">": b"MM"}[order]
    start = (
        struct.pack(f"{order}HHHQ", 43, 8, 0, after)
        if is_big
        else struct.pack(f"{order}HI", 42, after)
    )
    return mark + start + content + directory + struct.pack(f"{order}{number}", 0) + beside
