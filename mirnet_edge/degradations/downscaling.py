"""Downscaling: the degradation that super-resolution undoes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import ImageError, OptionError

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame

FACTORS = (1, 2, 3, 4)


def downscale(frame: Frame, factor: int) -> Frame:
    """Return FRAME with each side divided by FACTOR: bicubic (a = -0.5), antialiased.

    The kernel is as wide as the factor, as in MATLAB's imresize, which super-resolution papers
    use; bicubic without antialiasing makes aliases that no camera makes.

    Args:
        frame: (H, W, 3) uint8 RGB; H and W are multiples of the factor.
        factor: 1 (unchanged), 2, 3 or 4.

    Raises:
        OptionError: Another factor.
        ImageError: A side is no multiple of it.
    """
    from PIL import Image

    if factor not in FACTORS:
        raise OptionError(f"factor must be one of {FACTORS}, found {factor}")
    height, width = frame.shape[:2]
    if height % factor or width % factor:
        raise ImageError(
            f"frame is {width}x{height}; expected multiples of {factor}. Crop it before it is "
            "made smaller, so that both have the same view"
        )
    if factor == 1:
        return frame
    size = (width // factor, height // factor)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
