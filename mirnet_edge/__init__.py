"""MIRNet image restoration, from a checkpoint to live video on a device.

import mirnet_edge

restored = mirnet_edge.restore("night.jpg")  # uint8 (H, W, 3) RGB
restored = mirnet_edge.restore("scan.tif", task="old-photo,super-resolution", strength=0.8)

with mirnet_edge.open_bundle("shipped:denoise") as runner:  # or a folder of `mirnet export`
    restored = runner.run(frames)  # uint8 (N, H, W, 3) RGB in and out

for shown in mirnet_edge.stream("0", "shipped:low-light"):  # a camera's newest frame
    ...  # shown.after: uint8 (H, W, 3) RGB
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike
    from typing import Literal

    from mirnet_edge.diagnosis import Diagnosis
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.bundle import open_bundle
    from mirnet_edge.video.live.stream import RestoringCapture, stream

    __version__: str

# ONNX Runtime reports its use to its makers, and writes a device identifier, unless this stands
# before it is imported. Nothing leaves the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Diagnosis",
    "RestoringCapture",
    "__version__",
    "diagnose",
    "open_bundle",
    "restore",
    "stream",
]


def diagnose(image: Frame | str | PathLike[str]) -> Diagnosis:
    """Return what is wrong with an image, and the tasks that restore it.

    `result.top_label` is "fine" for an image that is to be left alone; `result.scores`,
    `result.sigma` and `result.tasks` say more, `result.describe()` all in one line.

    Args:
        image: (H, W, 3) uint8 RGB, or an image file.

    Raises:
        ImageError: Not (H, W, 3) uint8, or a file that is no image.
    """
    from pathlib import Path

    import numpy as np

    from mirnet_edge.diagnosis import diagnose_frames
    from mirnet_edge.images.files import apply_orientation, read_image

    if isinstance(image, np.ndarray):
        return diagnose_frames([image])
    return diagnose_frames([apply_orientation(read_image(Path(image)))])


def restore(
    image: Frame | str | PathLike[str],
    bundle: str | PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    *,
    task: str | None = None,
    weights: str | PathLike[str] | None = None,
    strength: float = 1.0,
    threads: int | None = None,
    tile: tuple[int, int] | Literal["auto"] | None = None,
    max_memory_mib: int | None = None,
) -> Frame:
    """Return an image restored.

    The bundles are opened for this call; for many images open one once with `open_bundle`.

    Args:
        image: (H, W, 3) uint8 RGB, or an image file, which is turned as viewers show it.
        bundle: A bundle's folder, or `shipped:NAME` for one of this package, in place of a task.
        backend: openvino, onnxruntime, torch, tensorrt, or auto.
        precision: fp32, bf16, fp16, int8, or auto.
        task: What to restore: low-light, denoise, super-resolution, old-photo, or several in their
            order, with commas between them; None or auto for what `diagnose` finds, a fine
            image is returned as it is.
        weights: A weights file of a MIRNet, run by torch, in place of a bundle and a task.
        strength: From 0, the image, to 1, the restored one: how much of each the result has.
        threads: How many the backend may use; None for its default.
        tile: (height, width) of the tiles a large image is cut into, or "auto" for the size of
            the bundle's graphs or what `max_memory_mib` allows; None for the whole image,
            while the memory suffices.
        max_memory_mib: What restoring may take beside the image; sets the tiles' size.

    Returns:
        (scale H, scale W, 3) uint8 RGB; scale is 1, or 2 for super-resolution.

    Raises:
        ImageError: Not (H, W, 3) uint8, or a file that is no image.
        BundleError: No bundle, or none of its configurations runs here.
        CheckpointError: The weights cannot be loaded.
        OptionError: A value makes no sense, or two of task, bundle and weights are given.
        MirnetEdgeError: A runner failed.
    """
    from os import fspath
    from pathlib import Path

    import numpy as np

    from mirnet_edge.images.contract import check_frames
    from mirnet_edge.images.files import ImageFile, apply_orientation, read_image
    from mirnet_edge.runtime.bundle import RunnerChoice, affordable_pixels
    from mirnet_edge.runtime.restore import restore_image
    from mirnet_edge.runtime.task_choice import check_alone, choose_bundles

    if isinstance(image, np.ndarray):
        check_frames(image[None])
        frame = image
    else:
        frame = apply_orientation(read_image(Path(image)))
    named = None if bundle is None else fspath(bundle)
    if weights is None:
        bundles, _ = choose_bundles(task, named, iter([frame]))
        if not bundles:
            return np.array(frame)
    else:
        check_alone(fspath(weights), task, named)
        bundles = ()
    choice = RunnerChoice(
        bundle=bundles[0] if bundles else None, then=bundles[1:],
        weights=None if weights is None else fspath(weights), backend=backend, precision=precision,
        threads=threads, tile=tile, max_memory_mib=max_memory_mib, strength=strength,
        whole_pixels=affordable_pixels(),
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
    if name == "Diagnosis":
        from mirnet_edge.diagnosis import Diagnosis

        return Diagnosis
    if name == "__version__":
        from importlib.metadata import version

        return version("mirnet-edge")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
