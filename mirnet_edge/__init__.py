"""MIRNet on the edge: from a checkpoint to a measured engine that enhances live video.

import mirnet_edge

with mirnet_edge.open_bundle("build/lowlight") as runner:
    restored = runner.run(frames)  # uint8 (N, H, W, 3) RGB in and out

for shown in mirnet_edge.stream("0", "build/lowlight"):
    ...  # shown.after: uint8 (H, W, 3) RGB, of the camera's newest frame
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirnet_edge.runtime.bundle import open_bundle
    from mirnet_edge.video.live.stream import RestoringCapture, stream

    __version__: str

__all__ = ["RestoringCapture", "__version__", "open_bundle", "stream"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a module's attributes have every type
    # on first use: a command that prints its help needs neither, and pays for neither
    if name == "open_bundle":
        from mirnet_edge.runtime.bundle import open_bundle

        return open_bundle
    if name in ("stream", "RestoringCapture"):
        from mirnet_edge.video.live import stream

        return getattr(stream, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("mirnet-edge")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
