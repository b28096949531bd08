"""Joining the segments of a video, and the sound and text of its source, into one file."""

from __future__ import annotations

from heapq import merge
from itertools import chain, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from mirnet_edge.dependencies import require
from mirnet_edge.files import replaced_file
from mirnet_edge.video.encoding import naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from fractions import Fraction
    from pathlib import Path

    from av import Packet
    from av.stream import Stream

    from mirnet_edge.video.decoding import VideoReader
    from mirnet_edge.video.segments import Segment


def join(
    segments: Sequence[Segment],
    output: Path,
    source: VideoReader,
    others: Sequence[int],
    time_base: Fraction,
    rotation: int,
) -> None:
    """Write a file of segments, copying packets; it is there whole or not at all.

    Args:
        segments: In order, coded alike.
        output: Of a suffix that holds H.264.
        source: Newly opened; gives the metadata and the packets of other streams.
        others: The indices of those of its streams that are copied.
        time_base: Of the segments' first times, and of the pictures in the file.
        rotation: Degrees counterclockwise by which players are to turn it.

    Raises:
        VideoError: It cannot be written.
        MirnetEdgeError: The folder cannot be written.
    """
    av = require("av", "writing video")
    with (
        replaced_file(output) as part,
        naming(output),
        av.open(str(segments[0].path)) as first,
        av.open(str(part), "w") as container,
    ):
        video = container.add_stream_from_template(first.streams.video[0])
        video.time_base = time_base
        if rotation:
            video.set_display_rotation(rotation)
        streams = source.container.streams
        copies = {one: container.add_stream_from_template(streams[one]) for one in others}
        container.metadata.update(source.container.metadata)
        pictures = ((packet, video) for packet in timed(segments, time_base))
        for packet, stream in merge(pictures, _others(source, copies), key=_decoded_at):
            packet.stream = stream
            container.mux(packet)


def timed(segments: Sequence[Segment], time_base: Fraction) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments in coding order, with times that fit together.

    A decoder needs DTS that rise and never pass PTS. Each segment's own do, but those of the next
    begin before them where frames come at uneven intervals. So they are set anew, over all: the
    packet in place i gets the PTS of the frame that is shown in place i - d, where d is the largest
    number of packets that any frame is coded ahead of its turn.
    """
    places = [_times(segment, time_base) for segment in segments]
    order = sorted(chain.from_iterable(places))
    delay = max(map(_furthest_ahead, places))
    steps = [after - before for before, after in pairwise(order)]
    # nobody says how long the last frame lasts: as long as the others do on average
    lasts = dict(zip(order, [*steps, round(fmean(steps)) if steps else 1], strict=True))
    place = 0
    for segment, of in zip(segments, places, strict=True):
        for packet, pts in zip(_packets(segment), of, strict=True):
            shown = place - delay
            packet.pts = pts
            packet.dts = order[shown] if shown >= 0 else order[0] + shown * lasts[order[0]]
            packet.duration = lasts[pts]
            packet.time_base = time_base
            yield packet
            place += 1


def _furthest_ahead(times: list[int]) -> int:
    """Return by how many packets a frame is coded ahead of its turn, at most."""
    turns = {pts: turn for turn, pts in enumerate(sorted(times))}
    return max(place - turns[pts] for place, pts in enumerate(times))


def _times(segment: Segment, time_base: Fraction) -> list[int]:
    """Return the PTS of a segment's packets in coding order, as its source counts them."""
    # every packet that an encoder makes has its time
    own = [
        round(cast("int", packet.pts) * packet.time_base / time_base)
        for packet in _packets(segment)
    ]
    shift = segment.first_pts - min(own)  # the container begins at 0
    return [pts + shift for pts in own]


def _packets(segment: Segment) -> Iterator[Packet[Any]]:
    av = require("av", "writing video")
    with av.open(str(segment.path)) as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _others(source: VideoReader, copies: dict[int, Stream]) -> Iterator[tuple[Packet[Any], Stream]]:
    """Yield the packets of other streams with the streams that they are copied to."""
    if not copies:
        return
    streams = source.container.streams
    for packet in source.packets(*(streams[index] for index in copies)):
        # some are of pictures; those without a time mark the end, and hold nothing
        if packet.stream.index in copies and packet.dts is not None:
            yield packet, copies[packet.stream.index]


def _decoded_at(timed: tuple[Packet[Any], Stream]) -> float:
    packet, _ = timed
    return float(cast("int", packet.dts) * packet.time_base)  # `_others` leaves out the rest
