"""How large the pictures are that calibrate, judge and time: what the network can afford."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mirnet_edge.calibration.sets import CalibrationSet, fitted
from mirnet_edge.images import pad_to_multiple

if TYPE_CHECKING:
    from mirnet_edge.checkpoints import Loaded
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import ImageContract

_TIMING_SIZE = (480, 640)
_LARGEST_SAMPLE = (960, 1280)
# Pictures are judged and timed by a dozen modes. One of the full MIRNet costs 2.2 TMACs at
# 640x480, half a minute on two cores: it is judged on smaller cuts, and the manifest says so.
_AFFORDABLE_MACS = 128e9
_SMALLEST_CUT = 128


def prepared(pictures: CalibrationSet, image: ImageContract, loaded: Loaded) -> CalibrationSet:
    """Bring the pictures to the graphs' fixed size, or to one that is not too large."""
    largest = _affordable(_LARGEST_SAMPLE, loaded)
    return replace(
        pictures,
        calibrating=tuple(fitted(one, image.size, largest) for one in pictures.calibrating),
        judging=tuple(fitted(one, image.size, largest) for one in pictures.judging),
    )


def timing_frame(pictures: CalibrationSet, image: ImageContract, loaded: Loaded) -> Frames:
    """Return the frame that modes are timed on, (1, H, W, 3), padded."""
    size = image.size or _affordable(_TIMING_SIZE, loaded)
    sample = fitted(pictures.judging[0], size, None)
    return pad_to_multiple(sample.frame[None], image.multiple)


def _affordable(size: tuple[int, int], loaded: Loaded) -> tuple[int, int]:
    """Return the largest (height, width) of the same shape that the network can be judged on."""
    from mirnet_edge.models.macs import count_macs

    multiple = int(loaded.model.multiple)  # type: ignore[arg-type]  # every network states it
    probe = 8 * multiple
    macs_per_pixel = count_macs(loaded.model, probe, probe) / probe**2
    height, width = size
    scale = min(1.0, (_AFFORDABLE_MACS / (macs_per_pixel * height * width)) ** 0.5)
    if scale == 1.0:
        return size
    height, width = (max(_SMALLEST_CUT, int(scale * side)) for side in size)
    return height // multiple * multiple, width // multiple * multiple
