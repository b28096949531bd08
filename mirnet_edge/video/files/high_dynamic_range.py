"""Restore frames of more than 8 bits; HLG and PQ are converted to what networks know, and back.

Networks are trained on images for ordinary screens. An HLG signal is close to one: its lower half
is a gamma curve, its upper half compresses highlights. So a network is given

    HLG signal ─► scene light ─► BT.709 primaries ─► HLG curve,

and PQ signals first become the HLG ones that look the same on a display of 1000 cd/m² (ITU-R
BT.2408). The way back is exact for what lies within BT.709; the rest, saturated colors and brighter
highlights, is added as it was: a network that changes nothing gives the source.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from av import VideoFrame as Decoded
    from numpy.typing import NDArray

    from mirnet_edge.video.files.decoding import Pixel
    from mirnet_edge.video.frames import ColorTags
    from mirnet_edge.video.restorer import Restorer

PQ, HLG = 16, 18
"""Transfer characteristics of ITU-T H.273."""
_BT709 = 1

# ITU-R BT.2087, linear light
_BT709_OF_BT2020 = np.array(
    [(1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)], np.float32
)
_BT2020_OF_BT709 = np.linalg.inv(_BT709_OF_BT2020).astype(np.float32)
# ITU-R BT.2100: the HLG curve, the PQ curve, and the gamma of an HLG display of 1000 cd/m²
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_PEAK, _PQ_PEAK, _SYSTEM_GAMMA = 1000.0, 10000.0, 1.2


def hdr_parameters(frame: Decoded) -> tuple[str, ...]:
    """Return x265's parameters for the mastering display and light levels stated by a frame."""
    from av.sidedata.sidedata import Type

    found: list[str] = []
    for data in frame.side_data:
        payload = bytes(data)  # type: ignore[arg-type]  # iteration gives data
        kind = data.type  # type: ignore[attr-defined]
        if kind == Type.CONTENT_LIGHT_LEVEL:
            most, average = struct.unpack_from("=2I", payload)
            found.append(f"max-cll={most},{average}")
        elif kind == Type.MASTERING_DISPLAY_METADATA:
            found += _mastering_display(payload)
    return tuple(found)


def _mastering_display(payload: bytes) -> list[str]:
    """Return x265's parameter for FFmpeg's AVMasteringDisplayMetadata."""
    numbers = struct.unpack_from("=22i", payload)
    *rationals, has_primaries, has_luminance = numbers
    if not (has_primaries and has_luminance):
        return []
    values = [
        numerator / (denominator or 1)
        for numerator, denominator in zip(rationals[::2], rationals[1::2], strict=True)
    ]
    red, green, blue, white = (
        f"({round(50_000 * x)},{round(50_000 * y)})"
        for x, y in zip(values[:8:2], values[1:8:2], strict=True)
    )
    least, most = (round(10_000 * value) for value in values[8:])
    return [f"master-display=G{green}B{blue}R{red}WP{white}L({most},{least})"]


class DeepRestoring:
    """Restores frames of more than 8 bits, of one video."""

    def __init__(self, color: ColorTags) -> None:
        """Store the color metadata.

        Args:
            color: Its transfer characteristic and primaries decide about the conversion.
        """
        self.is_hdr = color.transfer in (PQ, HLG)
        """Whether frames are converted."""
        self._is_wide = self.is_hdr and color.primaries != _BT709
        is_pq = color.transfer == PQ
        self._light_of_signal = _table(_light_of_pq if is_pq else _light_of_hlg)
        self._signal_of_light = _table(_pq_of_light if is_pq else _hlg_of_light)

    def restore(self, levels: NDArray[np.uint16], restorer: Restorer) -> NDArray[np.uint16]:
        """Return a restored frame of 16 bits.

        Args:
            levels: (H, W, 3) RGB, from 0 to 65535.
            restorer: Open. Where its runner gives 8 bits alone, the change is rounded to them.

        Raises:
            MirnetEdgeError: The runner failed.
        """
        signal = levels * np.float32(1 / 65535)
        given = self.to_network(signal)
        if restorer.takes_floats:
            restored = restorer.restore_float(given)
        else:
            rounded = np.rint(given * np.float32(255.0)).astype(np.uint8)
            restored = restorer.restore(rounded) * np.float32(1 / 255)
        if restored.shape != signal.shape:
            signal = enlarge(signal, restored.shape[:2])
            given = self.to_network(signal)
        changed = signal + self.from_network(restored) - self.from_network(given)
        result: NDArray[np.uint16] = np.rint(np.clip(changed, 0.0, 1.0) * np.float32(65535)).astype(
            np.uint16
        )
        return result

    def to_network(self, signal: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a network is given of (H, W, 3) in [0, 1], in [0, 1]."""
        if not self.is_hdr:
            return signal
        light = _look_up(self._light_of_signal, signal)
        return _look_up(_table(_hlg_of_light), _fourth_root(self._mix(light, _BT709_OF_BT2020)))

    def from_network(self, restored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the signal of what a network gave: the inverse of `to_network`."""
        if not self.is_hdr:
            return restored
        light = self._mix(_look_up(_table(_light_of_hlg), restored), _BT2020_OF_BT709)
        return _look_up(self._signal_of_light, _fourth_root(light))

    def _mix(self, light: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        import cv2

        return np.asarray(cv2.transform(light, matrix), np.float32) if self._is_wide else light


@cache
def _table(function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return a function's values for `_look_up`; of light, at fourth powers of equal steps."""
    steps = np.linspace(0.0, 1.0, _STEPS, dtype=np.float32)
    return function(_MOST_LIGHT * steps**4 if function in _OF_LIGHT else steps)


def _look_up(table: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a table's values at places in [0, 1]."""
    indices = (places * np.float32(_STEPS - 1) + np.float32(0.5)).astype(np.uint16)
    return np.asarray(np.take(table, indices), np.float32)


def _fourth_root(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the places of light in a table; light outside the table is clipped."""
    inside = np.clip(light * np.float32(1 / _MOST_LIGHT), 0.0, 1.0)
    return np.asarray(np.sqrt(np.sqrt(inside)), np.float32)


def enlarge(pixels: NDArray[Pixel], size: tuple[int, ...]) -> NDArray[Pixel]:
    """Return (H, W, 3) enlarged to SIZE, (height, width), by bicubic interpolation."""
    import cv2

    height, width = size
    enlarged = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(enlarged, pixels.dtype)


def _light_of_hlg(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scene light in [0, 1]."""
    bright = (np.exp((signal - np.float32(_C)) / np.float32(_A)) + np.float32(_B)) / 12
    return np.where(signal <= 0.5, signal * signal / 3, bright).astype(np.float32)


def _hlg_of_light(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the HLG signal; light outside [0, 1] is clipped."""
    light = np.clip(light, 0.0, 1.0)
    bright = _A * np.log(np.maximum(12 * light - np.float32(_B), 1e-6)) + _C
    return np.where(light <= 1 / 12, np.sqrt(3 * light), bright).astype(np.float32)


def _light_of_pq(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scene light with which HLG gives the same luminance; above 1 beyond its peak."""
    root = np.power(np.maximum(signal, 0.0), np.float32(1 / _M2))
    ratio = np.maximum(root - np.float32(_C1), 0.0) / (np.float32(_C2) - np.float32(_C3) * root)
    luminance = np.power(ratio, np.float32(1 / _M1)) * np.float32(_PQ_PEAK / _PEAK)
    return np.asarray(np.power(luminance, np.float32(1 / _SYSTEM_GAMMA)), np.float32)


def _pq_of_light(light: NDArray[np.float32]) -> NDArray[np.float32]:
    luminance = np.power(np.maximum(light, 0.0), np.float32(_SYSTEM_GAMMA))
    power = np.power(luminance * np.float32(_PEAK / _PQ_PEAK), np.float32(_M1))
    ratio = (np.float32(_C1) + np.float32(_C2) * power) / (1 + np.float32(_C3) * power)
    return np.asarray(np.power(ratio, np.float32(_M2)), np.float32)


_STEPS = 65536
_MOST_LIGHT = 2.0
_OF_LIGHT = (_hlg_of_light, _pq_of_light)
