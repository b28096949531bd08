"""What `--source` takes, and the source it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.errors import VideoError
from mirnet_edge.video.clock import REAL_CLOCK

if TYPE_CHECKING:
    from mirnet_edge.video.clock import Clock
    from mirnet_edge.video.sources import Source

_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "srt://", "udp://", "tcp://")
_SYNTHETIC = "synthetic"
_GSTREAMER, _CSI = "gst:", "csi"


def open_source(
    place: str,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    clock: Clock = REAL_CLOCK,
) -> Source:
    """Return the source that a text names; nothing is opened yet.

    Args:
        place: A camera's number, a file, an address, "gst: PIPELINE", "csi" or "csi:NUMBER" on a
            Jetson, or "synthetic".
        size: (height, width): asked of cameras, scaled to for files and addresses.
        fps: Asked of cameras, and the synthetic source's own.
        clock: Stamps the frames.

    Raises:
        VideoError: No such file or camera.
    """
    from mirnet_edge.video.camera import (
        CameraSource,
        check_number,
        csi_pipeline,
        gstreamer_camera,
        numbered_camera,
    )
    from mirnet_edge.video.sources import SyntheticSource
    from mirnet_edge.video.streams import FileSource, StreamSource

    if place == _SYNTHETIC:
        height, width = size or (480, 640)
        return SyntheticSource(width=width, height=height, fps=fps or 30.0, clock=clock)
    if place.isdecimal():
        check_number(int(place))
        opener = numbered_camera(int(place), size=size, fps=fps)
        return CameraSource(f"camera {place}", opener, clock=clock)
    if place.startswith(_GSTREAMER):
        pipeline = place.removeprefix(_GSTREAMER).strip()
        return CameraSource("the GStreamer pipeline", gstreamer_camera(pipeline), clock=clock)
    head, _, number = place.partition(":")
    if head == _CSI and (number or "0").isdecimal():
        pipeline = csi_pipeline(
            sensor=int(number or 0), size=size or (720, 1280), fps=round(fps or 30)
        )
        return CameraSource(f"CSI camera {number or 0}", gstreamer_camera(pipeline), clock=clock)
    if place.startswith(_STREAMS):
        return StreamSource(place, size=size, clock=clock)
    if not Path(place).is_file():
        raise VideoError(
            f"--source {place}: expected a camera's number, a video file, an address like "
            'rtsp://HOST/PATH, "gst: PIPELINE", csi or synthetic; there is no such file'
        )
    return FileSource(Path(place), size=size, clock=clock)
