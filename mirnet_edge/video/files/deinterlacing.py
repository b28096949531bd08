"""Deinterlace decoded frames with FFmpeg's bwdif, where they are flagged as interlaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.dependencies import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av import VideoFrame as Decoded
    from av.filter import Graph


class Deinterlacer:
    """Makes interlaced frames progressive, one of each; progressive frames pass unchanged.

    It begins with the first interlaced frame: a progressive video costs nothing.
    """

    def __init__(self) -> None:
        """Start before the first frame."""
        self.frames = 0
        """Interlaced frames so far."""
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None

    def add(self, frame: Decoded) -> Iterator[Decoded]:
        """Yield the frames that are complete: bwdif needs the next one, too."""
        self.frames += frame.interlaced_frame
        if not self.frames:
            yield frame
            return
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._kind:
            yield from self.flush()
            self._kind, self._graph = kind, _build_graph(frame)
        if self._graph is not None:
            self._graph.vpush(frame)
            yield from _pull(self._graph)

    def flush(self) -> Iterator[Decoded]:
        """Yield the last frames."""
        graph, self._graph, self._kind = self._graph, None, None
        if graph is not None:
            graph.vpush(None)
            yield from _pull(graph)


def _build_graph(frame: Decoded) -> Graph:
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1  # equal results on every machine
    nodes = [
        graph.add_buffer(template=frame, time_base=frame.time_base),  # type: ignore[arg-type]  # a frame has what it reads
        graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _pull(graph: Graph) -> Iterator[Decoded]:
    av = require("av", "reading video")
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
