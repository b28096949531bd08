"""Where frames come from: what every source does, and one that needs no camera."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import Colour, VideoFrame

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from mirnet_edge.images import Frame
    from mirnet_edge.video.clock import Clock


class Source(Protocol):
    """Gives frames in order. Built cheaply; `with` opens it, and it can be opened again.

    It is opened, read and closed by one thread, which is not the one that made it.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def paced(self) -> bool:
        """Whether frames are there at once and are to be shown by their timestamps.

        True for a file that stands for a camera; a camera's frames come when they come.
        """

    @property
    def frame_time_s(self) -> float | None:
        """Seconds between two frames as the source announces them; None where it does not."""

    def __enter__(self) -> Source: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def read(self) -> VideoFrame | None:
        """Return the next frame, waiting for it; None at the end.

        Raises:
            SourceInterruptedError: It gives no more, and opening it again may help.
            VideoError: It cannot be read.
        """


class SyntheticSource:
    """A dark, noisy room with a lamp that moves: the same frames for the same seed.

    Every frame has its own noise, and its content depends on nothing but its index.
    """

    def __init__(
        self,
        *,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        frames: int | None = None,
        seed: int = 0,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Say what it shows; nothing is computed yet.

        Args:
            width: Of the frames.
            height: Of the frames.
            fps: How many a second, when paced.
            frames: After how many it ends; None for never.
            seed: Of the scene and the noise.
            clock: Stamps the frames.

        Raises:
            OptionError: No pixel, or no frame in a second.
        """
        if width < 1 or height < 1 or not fps > 0.0:
            raise OptionError(
                f"expected a size and frames per second above 0, found {width}x{height} at {fps:g}"
            )
        self._width, self._height = width, height
        self._rate = Fraction(fps).limit_denominator(1001)
        self._frames, self._seed, self._clock = frames, seed, clock
        self._index = 0
        self._scene: NDArray[np.float32] | None = None
        self._noise: NDArray[np.float32] | None = None

    @property
    def name(self) -> str:
        """Return "synthetic"."""
        return "synthetic"

    @property
    def paced(self) -> bool:
        """Return True: it computes as fast as it is read."""
        return True

    @property
    def frame_time_s(self) -> float | None:
        """Return the seconds between two frames."""
        return float(1 / self._rate)

    def __enter__(self) -> SyntheticSource:
        generator = np.random.default_rng(self._seed)
        self._scene = _room(self._height, self._width, generator)
        # one field of noise, taken from another place each time: drawing it anew takes 20 ms
        self._noise = generator.normal(0.0, 0.02, (2 * self._height, 2 * self._width, 1)).astype(
            np.float32
        )
        self._index = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._scene = self._noise = None

    def read(self) -> VideoFrame | None:
        """Return the next frame, None after the last.

        Raises:
            OptionError: Used outside `with`.
        """
        if self._scene is None or self._noise is None:
            raise OptionError("the synthetic source is not open: expected `with source:`")
        if self._frames is not None and self._index >= self._frames:
            return None
        index, self._index = self._index, self._index + 1
        return VideoFrame(
            pixels=self._picture(index, self._scene, self._noise),
            index=index,
            captured_s=self._clock.now(),
            pts=index,
            time_base=1 / self._rate,
            colour=Colour(),
        )

    def _picture(self, index: int, scene: NDArray[np.float32], noise: NDArray[np.float32]) -> Frame:
        generator = np.random.default_rng((self._seed, index))
        row = int(generator.integers(0, self._height + 1))
        column = int(generator.integers(0, self._width + 1))
        # the lamp goes round once in four seconds
        turn = 2.0 * np.pi * index / float(4 * self._rate)
        light = _spot(self._height, self._width, 0.5 + 0.3 * np.cos(turn), 0.5 + 0.3 * np.sin(turn))
        lit = scene * (0.35 + light[..., None])
        lit += noise[row : row + self._height, column : column + self._width]
        pixels: Frame = (255.0 * np.clip(lit, 0.0, 1.0)).astype(np.uint8)
        return pixels


def _room(height: int, width: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return (H, W, 3): wall, floor and things of many colours, as dark as a room at night."""
    room = np.full((height, width, 3), 0.10, np.float32)
    room[2 * height // 3 :] = (0.09, 0.07, 0.05)
    for _ in range(24):
        top, left = generator.integers(0, height), generator.integers(0, width)
        tall, wide = generator.integers(1, height // 4 + 2), generator.integers(1, width // 6 + 2)
        room[top : top + tall, left : left + wide] = generator.uniform(0.02, 0.22, 3)
    return room


def _spot(height: int, width: int, across: float, down: float) -> NDArray[np.float32]:
    """Return (H, W): a round light with a soft edge, 1 in its middle."""
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - np.float32(down)
    columns = (np.arange(width, dtype=np.float32)[None] + 0.5) / width - np.float32(across)
    light: NDArray[np.float32] = np.exp(-12.0 * rows**2) * np.exp(-12.0 * columns**2)
    return light
