"""What the scripts of `benchmarks/` share: networks by name, images of a folder, enlargement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.images.files import read_image
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.weights import open_weights
from mirnet_edge.training.listing import list_images

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.manifest import Precision
    from mirnet_edge.runtime.runner import Runner


def list_precisions(name: str) -> tuple[Precision, ...]:
    """Return the precisions that NAME is measured in: fp32 and INT8 of bundles, fp32 of weights."""
    return ("fp32",) if Path(name).is_file() else ("fp32", "int8")


def open_network(name: str, precision: Precision) -> Runner:
    """Return a new runner, not opened yet, of a file of weights, a bundle or `shipped:NAME`.

    Raises:
        BundleError: There is no such bundle, or it lacks the precision.
        CheckpointError: The weights cannot be loaded.
    """
    return open_weights(name) if Path(name).is_file() else open_bundle(name, precision=precision)


def read_images(folder: Path) -> dict[str, Frame]:
    """Return a folder's images, (H, W, 3) uint8 RGB, by the names of their files.

    Raises:
        DataError: It holds none, or two share a name.
        ImageError: One cannot be read.
    """
    return {one.target.name: read_image(one.target).frame for one in list_images(folder)}


def enlarge_bicubic(frame: Frame, size: tuple[int, int]) -> Frame:
    """Return a frame, (H, W, 3) uint8, at SIZE, (height, width), by bicubic interpolation.

    It is the frame itself where it has that size.
    """
    from PIL import Image

    if frame.shape[:2] == size:
        return frame
    enlarged = Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(enlarged)
