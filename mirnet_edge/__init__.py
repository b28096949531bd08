"""MIRNet image restoration, from a checkpoint to live video on a device.

import mirnet_edge

restored = mirnet_edge.restore("night.jpg")  # uint8 (H, W, 3) RGB

with mirnet_edge.open_bundle("build/bundle") as runner:  # exported by `mirnet export`
    restored = runner.run(frames)  # uint8 (N, H, W, 3) RGB in and out

for shown in mirnet_edge.stream("0", "build/bundle"):  # a camera's newest frame
    ...  # shown.after: uint8 (H, W, 3) RGB
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike
    from typing import Literal

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.bundle import open_bundle
    from mirnet_edge.video.live.stream import RestoringCapture, stream

    __version__: str

__all__ = ["RestoringCapture", "__version__", "open_bundle", "restore", "stream"]


def restore(
    image: Frame | str | PathLike[str],
    bundle: str | PathLike[str] = "shipped:low-light",
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
    tile: tuple[int, int] | Literal["auto"] | None = None,
    max_memory_mib: int | None = None,
) -> Frame:
    """Return an image restored.

    The bundle is opened for this call; for many images open it once with `open_bundle`.

    Args:
        image: (H, W, 3) uint8 RGB, or an image file, which is turned as viewers show it.
        bundle: A bundle's folder, or `shipped:NAME` for weights of this package. Their bundle is
            exported on first use, which takes minutes and needs `mirnet-edge[export]`.
        backend: openvino, onnxruntime, torch, tensorrt, or auto.
        precision: fp32, bf16, fp16, int8, or auto.
        threads: How many the backend may use; None for its default.
        tile: (height, width) of the tiles a large image is cut into, or "auto" for the size of
            the bundle's graphs or what `max_memory_mib` allows; None for the whole image.
        max_memory_mib: What restoring may take beside the image; sets the tiles' size.

    Returns:
        (scale H, scale W, 3) uint8 RGB; scale is 1, or 2 for super-resolution.

    Raises:
        ImageError: Not (H, W, 3) uint8, or a file that is no image.
        BundleError: No bundle, or none of its configurations runs here.
        MirnetEdgeError: The bundle cannot be exported, or a value makes no sense.
    """
    from os import fspath
    from pathlib import Path

    import numpy as np

    from mirnet_edge.export.shipped import find_bundle
    from mirnet_edge.images.contract import check_frames
    from mirnet_edge.images.files import ImageFile, apply_orientation, read_image
    from mirnet_edge.runtime.bundle import RunnerChoice
    from mirnet_edge.runtime.restore import restore_image

    if isinstance(image, np.ndarray):
        check_frames(image[None])
        frame = image
    else:
        frame = apply_orientation(read_image(Path(image)))
    choice = RunnerChoice(
        bundle=find_bundle(fspath(bundle)), backend=backend, precision=precision, threads=threads,
        tile=tile, max_memory_mib=max_memory_mib,
    )  # fmt: skip
    with choice.runner() as runner:
        return restore_image(runner, ImageFile(frame=frame)).frame


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


def __dir__() -> list[str]:
    return sorted(__all__)
