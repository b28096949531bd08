"""Coding live pictures as H.264 without delay: what goes in comes out at once."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.video.encoding import luma_and_chroma, tag

if TYPE_CHECKING:
    from mirnet_edge.images import Frame
    from mirnet_edge.video.frames import Colour

CLOCK_RATE = 90_000
"""Ticks per second of video in RTP (RFC 3551)."""
_KEY_EVERY = 2 * CLOCK_RATE  # what a player that joins later waits at most
_FRAMES_PER_S = 30  # for the rate control alone: frames come when they come
# noise of a dark frame costs most of it; a line that carries less loses frames
_BITS_PER_PIXEL, _LEAST_RATE = 0.2, 500_000


class LowDelayEncoder:
    """H.264 (8 bits, 4:2:0, no B frames) of one size, a whole picture every two seconds."""

    def __init__(self, height: int, width: int, colour: Colour) -> None:
        """Open it.

        Args:
            height: Of the frames. An odd side is made even by repeating its last line.
            width: As the height.
            colour: By which frames are coded, and tagged.
        """
        av = require("av", "publishing")
        from av.video.reformatter import VideoReformatter

        self._colour = colour
        self._odd = (height % 2, width % 2)
        self._reformatter = VideoReformatter()
        self._codec = av.VideoCodecContext.create("libx264", "w")
        codec = self._codec
        codec.height, codec.width = height + self._odd[0], width + self._odd[1]
        codec.pix_fmt = "yuv420p"
        codec.time_base, codec.framerate = Fraction(1, CLOCK_RATE), _FRAMES_PER_S
        codec.gop_size = 1 << 20  # key frames come by the clock
        # the network is at work on the other cores
        codec.thread_count = max(1, min(4, (os.cpu_count() or 1) // 2))
        rate = max(_LEAST_RATE, int(_BITS_PER_PIXEL * _FRAMES_PER_S * codec.height * codec.width))
        codec.options = {
            "preset": "superfast", "tune": "zerolatency", "crf": "20", "bf": "0",
            "forced-idr": "1", "maxrate": str(rate), "bufsize": str(rate // 2),
        }  # fmt: skip
        tag(codec, colour)
        self._next_key: int | None = None

    def encode(self, pixels: Frame, ticks: int) -> list[bytes]:
        """Return a frame's NAL units, without start codes; key frames begin with SPS and PPS.

        Args:
            pixels: (H, W, 3) uint8 RGB of the encoder's size.
            ticks: When it was captured, in units of 1 / CLOCK_RATE; rises from frame to frame.
        """
        from av.video.frame import PictureType

        below, right = self._odd
        if below or right:
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
        frame = luma_and_chroma(self._reformatter, pixels, "yuv420p", self._colour)
        frame.pts, frame.time_base = ticks, Fraction(1, CLOCK_RATE)
        if self._next_key is None or ticks >= self._next_key:
            frame.pict_type = PictureType.I
            self._next_key = ticks + _KEY_EVERY
        content = b"".join(map(bytes, self._codec.encode(frame)))
        # a start code cannot occur within a unit, and none ends with a zero (H.264, 7.4.1)
        return [unit for unit in re.split(rb"\x00*\x00\x00\x01", content) if unit]
