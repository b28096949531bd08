"""Short video files of many kinds, made with PyAV, and what is in a file: for tests.

Sound and frames of a film belong together: at 0.2 s, a frame is white and a click is heard.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.dependencies import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 25
EVENT_S = 0.2
"""When a frame is white and a click is heard."""
_DARK, _WHITE = 60, 235
_BLOCK = 960
_COVER_DISPOSITION = 1024


@dataclass(frozen=True, kw_only=True)
class Film:
    """The options of a short film."""

    name: str
    format: str | None = None
    """FFmpeg's muxer; None for that of the name's suffix."""
    codec: str = "libx264"
    options: tuple[tuple[str, str], ...] = ()
    """Of the video's encoder."""
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (48, 64)
    """(height, width)."""
    frames: int = 12
    sound: str | None = None
    """The encoder of its sound, None for none."""
    sample_rate: int = 48_000
    layout: str = "stereo"
    sounds: int = 1
    """How many tracks of sound."""
    start_s: float = 0.0


def write_film(
    path: Path,
    film: Film,
    *,
    change: Callable[[Any, list[Any]], None] = lambda container, streams: None,
    paint: Callable[[int], NDArray[Any]] | None = None,
) -> Path:
    """Write a film and return its path.

    Args:
        path: Where.
        film: Its options.
        change: Called with the container and its streams before anything is written.
        paint: Returns the frame of a number: (H, W, 3) RGB, uint8 or uint16, or (H, W, 4) RGB with
            alpha, uint8.
    """
    av = require("av", "writing video")
    height, width = film.size
    with av.open(f"file:{path}", "w", format=film.format) as container:
        video = container.add_stream(film.codec, rate=RATE, options=dict(film.options))
        video.height, video.width, video.pix_fmt = height, width, film.pix_fmt
        sounds = [
            container.add_stream(film.sound, rate=film.sample_rate, layout=film.layout)
            for _ in range(film.sounds if film.sound else 0)
        ]
        for sound in sounds:
            sound.codec_context.bit_rate = 128_000  # some encoders have no default
        change(container, [video, *sounds])
        start = round(film.start_s * RATE)
        for number in range(film.frames):
            level = _WHITE if number == round(EVENT_S * RATE) else _DARK
            pixels = paint(number) if paint else np.full((height, width, 3), level, np.uint8)
            kind = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
            kind = "rgba" if pixels.shape[2] == 4 else kind
            frame = av.VideoFrame.from_ndarray(pixels, format=kind).reformat(format=film.pix_fmt)
            frame.pts, frame.time_base = start + number, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for sound in sounds:
            _write_sound(container, sound, film)
    return path


def _write_sound(container: Any, stream: Any, film: Film) -> None:  # noqa: ANN401  # PyAV's
    av = require("av", "writing video")
    rate, channels = film.sample_rate, stream.codec_context.layout.nb_channels
    wave = np.zeros(film.frames * rate // RATE, np.float32)
    click = np.arange(rate // 50)
    wave[round(EVENT_S * rate) :][: len(click)] = 0.8 * np.sin(click * 2 * np.pi * 1000 / rate)
    resampler = av.AudioResampler(stream.format.name, film.layout, rate)
    for start in range(0, len(wave), _BLOCK):
        block = np.repeat(wave[None, start : start + _BLOCK], channels, 0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", film.layout)
        frame.sample_rate, frame.pts = rate, start + round(film.start_s * rate)
        for converted in resampler.resample(frame):
            container.mux(stream.encode(converted))
    container.mux(stream.encode(None))


@dataclass(frozen=True, kw_only=True)
class FilmContent:
    """What a file holds, as far as it decodes."""

    times: tuple[float, ...]
    """Of its frames, in seconds."""
    codecs: tuple[str, ...]
    """Of its tracks."""
    flashes: tuple[float, ...]
    """When white frames are shown, in seconds."""
    clicks: tuple[tuple[float, ...], ...]
    """When clicks are heard, in seconds, for each track of sound."""
    sound_s: tuple[float, ...]
    """The duration of each track of sound."""

    @property
    def steps(self) -> Counter[int]:
        """Return the times between frames in ms, and how often."""
        return Counter(round(1000 * (after - before)) for before, after in pairwise(self.times))


def read_film(path: Path) -> FilmContent:
    """Return what a file holds."""
    av = require("av", "reading video")
    times: list[float] = []
    flashes: list[float] = []
    sounds: dict[int, list[Any]] = {}
    with av.open(f"file:{path}") as container:
        codecs = tuple(
            one.codec_context.name for one in container.streams if one.codec_context is not None
        )
        video = next(
            one for one in container.streams.video if not one.disposition & _COVER_DISPOSITION
        )
        for packet in container.demux(video, *container.streams.audio):
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    sounds.setdefault(packet.stream.index, []).append(frame)
                    continue
                times.append(float(frame.pts * frame.time_base))
                if frame.to_ndarray(format="gray").mean() > (_DARK + _WHITE) / 2:
                    flashes.append(times[-1])
    return FilmContent(
        times=tuple(times),
        codecs=codecs,
        flashes=tuple(flashes),
        clicks=tuple(_clicks(frames) for frames in sounds.values()),
        sound_s=tuple(
            sum(frame.samples / frame.sample_rate for frame in frames) for frames in sounds.values()
        ),
    )


def _clicks(frames: list[Any]) -> tuple[float, ...]:
    """Return the seconds at which the sound becomes loud, after silence."""
    waves = [np.abs(_samples(frame)) for frame in frames]
    limit = 0.5 * max(float(wave.max()) for wave in waves)
    found: list[float] = []
    for frame, wave in zip(frames, waves, strict=True):
        if frame.pts is None:
            continue
        start = float(frame.pts * frame.time_base)
        for place in np.flatnonzero(wave > limit):
            time = start + place / frame.sample_rate
            if not found or time - found[-1] > EVENT_S / 2:
                found.append(time)
    return tuple(found)


def _samples(frame: Any) -> NDArray[np.float64]:  # noqa: ANN401  # PyAV's
    """Return the samples of the first channel, around 0."""
    samples: NDArray[np.float64] = frame.to_ndarray().astype(np.float64)
    wave = samples.reshape(-1, frame.layout.nb_channels)[:, 0]
    if frame.format.is_planar:
        wave = samples.reshape(frame.layout.nb_channels, -1)[0]
    return wave - 128 if frame.format.name.startswith("u8") else wave
