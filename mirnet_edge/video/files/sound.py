"""Encode a sound track as AAC, where no container can hold it as it is."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from mirnet_edge.dependencies import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av import AudioFrame, Packet
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.filter import Graph

_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
          8_000)  # fmt: skip
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_BITS_PER_CHANNEL = 96_000


def layout_name(channels: int) -> str:
    """Return the usual channel layout of a number of channels."""
    return _LAYOUTS.get(channels, "stereo")


@dataclass(frozen=True)
class ChannelLayout:
    """The channel layout of a track or of decoded sound."""

    name: str
    """For example `5.1`; `2 channels` where only their number is known."""
    channels: int

    @property
    def known_name(self) -> str:
        """Return a name that filters take: the usual one of as many channels where it has none."""
        return layout_name(self.channels) if "channels" in self.name else self.name

    @property
    def can_be_named(self) -> bool:
        """Return whether only the number of channels is known, and a layout has as many."""
        return self.name.endswith("channels") and self.channels in _LAYOUTS


def read_layout(owner: AudioCodecContext | AudioFrame) -> ChannelLayout:
    """Return the channel layout of a codec context or of a frame.

    PyAV 18.1 frees a layout that lists its channels, like `8 channels (FL+FR+...)`, twice: with
    its owner and with the object it gives out, which crashes. So that object is never freed.
    """
    layout = owner.layout
    if "(" in layout.name:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return ChannelLayout(layout.name, layout.nb_channels)


class AacTrack:
    """Decodes the packets of one sound track and encodes them as AAC, at their own times."""

    def __init__(self, source: AudioStream, container: OutputContainer) -> None:
        """Add a stream to an output container.

        Args:
            source: The track; its rate and its channels are kept where AAC has them.
            container: It has not been written to yet.
        """
        self._source = source
        context = source.codec_context
        rate = context.sample_rate
        self._rate = rate if rate in _RATES else 48_000
        self._layout = layout_name(read_layout(context).channels)
        self.stream = container.add_stream("aac", rate=self._rate, layout=self._layout)
        channels = self.stream.codec_context.layout.nb_channels
        self.stream.codec_context.bit_rate = min(_BITS_PER_CHANNEL, 6 * self._rate) * channels
        self._graph: Graph | None = None
        self._kind: tuple[object, ...] = ()
        self._next_pts: int | None = None
        self._time_base: Fraction | None = None

    def encode(self, packet: Packet[AudioStream]) -> Iterator[Packet[Any]]:
        """Yield the packets that a packet of the source completes; none where it is damaged."""
        av = require("av", "reading video")
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return  # the gap is filled with silence
        for frame in frames:
            yield from self._encode_frame(frame)

    def flush(self) -> Iterator[Packet[Any]]:
        """Yield the last packets."""
        av = require("av", "reading video")
        with suppress(av.FFmpegError):  # some decoders refuse it
            for frame in self._source.decode(None):
                yield from self._encode_frame(frame)
        self._source.codec_context.flush_buffers()  # a trial leaves it as it was
        if self._graph is not None:
            yield from self._finish_graph()
            yield from self.stream.encode(None)

    def _encode_frame(self, frame: AudioFrame) -> Iterator[Packet[Any]]:
        if frame.pts is None and self._time_base:  # what a decoder held back to the end
            frame.pts, frame.time_base = self._next_pts, self._time_base
        self._time_base = frame.time_base
        self._next_pts = None if frame.pts is None else frame.pts + _duration(frame)
        layout = read_layout(frame)
        kind = (frame.format.name, layout, frame.sample_rate, frame.time_base)
        if kind != self._kind:
            if self._graph is not None:
                yield from self._finish_graph()
            self._kind, self._graph = kind, self._build_graph(frame, layout)
        if self._graph is not None:
            self._graph.push(frame)
            yield from self._pull(self._graph)

    def _build_graph(self, frame: AudioFrame, layout: ChannelLayout) -> Graph:
        """Return a graph that converts frames to the encoder's kind and fills gaps with silence."""
        from av.filter import Graph

        graph = Graph()
        context = self.stream.codec_context
        nodes = [
            graph.add(
                "abuffer",
                sample_rate=str(frame.sample_rate),
                sample_fmt=frame.format.name,
                channel_layout=layout.known_name,
                time_base=str(frame.time_base),
            ),
            graph.add("aresample", "async=1:min_hard_comp=0.1"),
            graph.add(
                "aformat",
                sample_fmts=context.format.name,
                sample_rates=str(self._rate),
                channel_layouts=self._layout,
            ),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph

    def _finish_graph(self) -> Iterator[Packet[Any]]:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.push(None)
            yield from self._pull(graph)
            self._graph = graph

    def _pull(self, graph: Graph) -> Iterator[Packet[Any]]:
        av = require("av", "reading video")
        while True:
            try:
                frame = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield from self.stream.encode(cast("AudioFrame", frame))


def _duration(frame: AudioFrame) -> int:
    """Return a frame's duration in units of its time base."""
    return round(frame.samples / (frame.sample_rate * (frame.time_base or Fraction(1))))
