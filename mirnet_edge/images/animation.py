"""Animated WebP, AVIF and PNG: read the further frames, and the options to write them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.images.colors import rgb_pixels
from mirnet_edge.images.gray_profiles import gray_curve

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from mirnet_edge.images.contract import Frame

ANIMATED = ("WEBP", "AVIF", "PNG")
"""Formats whose animations are read and written."""


@dataclass(frozen=True, kw_only=True)
class AnimationFrame:
    """A frame of an animation after its first one, whole: what changes is drawn over what stays."""

    frame: Frame
    """(H, W, 3) uint8 RGB."""
    alpha: NDArray[np.uint8] | None = None
    """(H, W); None where it is opaque."""


@dataclass(frozen=True, kw_only=True)
class Animation:
    """The frames of an animated image after its first one, and how they are shown."""

    frames: tuple[AnimationFrame, ...]
    durations_ms: tuple[float, ...]
    """Of all frames, the first one's at the beginning."""
    loops: int | None = 0
    """How often they are shown; 0 for ever, None where the file's reader does not say it."""


def read_animation(image: Image.Image) -> Animation | None:
    """Return the animation of an open image, None where it has a single frame.

    The image is left at its first frame. An image before it, which a PNG may have for programs that
    show no animations, is passed over.

    Raises:
        OSError: A frame cannot be decoded.
    """
    first, count = int(bool(image.info.get("default_image"))), getattr(image, "n_frames", 1)
    if image.format not in ANIMATED or count - first < 2:
        return None
    loops = image.info.get("loop")
    frames, durations = [], []
    icc = image.info.get("icc_profile")
    icc = None if gray_curve(icc) is not None else icc
    for number in range(first, count):
        image.seek(number)
        image.load()
        durations.append(float(image.info.get("duration") or 0.0))
        if number > first:
            colors, alpha, _ = rgb_pixels(image, icc)
            frames.append(AnimationFrame(frame=colors, alpha=alpha))
    image.seek(first)
    return Animation(frames=tuple(frames), durations_ms=tuple(durations), loops=loops)


def save_options(animation: Animation, kind: str, *, channels: int) -> dict[str, Any]:
    """Return Pillow's options that add an animation's frames to the first one.

    Args:
        animation: Its frames have the size of the first one.
        kind: Pillow's name of the format.
        channels: Of the first frame as it is written: gray or RGB, with alpha or without.
    """
    from PIL import Image

    options: dict[str, Any] = {
        "save_all": True,
        "append_images": [Image.fromarray(_channels(one, channels)) for one in animation.frames],
        # only a PNG counts fractions of a millisecond
        "duration": [one if kind == "PNG" else round(one) for one in animation.durations_ms],
    }
    if kind == "WEBP" and channels == 4:
        options["allow_mixed"] = True  # lossy alone, libwebp drops the alpha of some flat frames
    if animation.loops is not None and kind != "AVIF":  # whose encoder states none
        options["loop"] = animation.loops
    return options


def _channels(frame: AnimationFrame, count: int) -> NDArray[np.uint8]:
    """Return (H, W) or (H, W, C); of gray, all channels of the frame are equal."""
    colors = frame.frame[..., :1] if count < 3 else frame.frame
    if count in (2, 4):
        opaque = np.full(colors.shape[:2], 255, np.uint8)
        colors = np.dstack([colors, opaque if frame.alpha is None else frame.alpha])
    return colors.squeeze(2) if count == 1 else colors
