"""Measure how far a network sees: where a tile differs from its frame, for the same context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge.images.contract import batch_from_frames, pad_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.models.global_context import ContextAnchoredNetwork

# A cut reaches as far as it changes the output by more: a fortieth of an 8-bit level.
TOLERANCE = 1e-4
# Strips of this (height, width): 32768 pixels cost the full MIRNet 0.24 TMACs, seconds.
_STRIP = (64, 512)
_CUTS = (160, 256, 352)


def measure_reach(
    network: ContextAnchoredNetwork,
    images: list[Frames],
    *,
    strip: tuple[int, int] = _STRIP,
    cuts: Sequence[int] = _CUTS,
    both_ways: bool = True,
) -> int:
    """Return how far from a cut, in pixels, the output differs from that of the uncut frame.

    Both get the frame's own context vectors, so that they differ only by the pixels that
    convolutions see beyond the cut. The theoretical distance, the receptive field, is several times
    larger than the measured one.

    Args:
        network: In eval mode.
        images: (1, H, W, 3) uint8 each; long strips are taken out of them.
        strip: (height, width) of the strips.
        cuts: Columns that strips are cut at.
        both_ways: Whether strips are taken along both sides, or along the rows alone.

    Returns:
        The largest distance at which more than `TOLERANCE` was seen on either side; at most the
        shortest side of a cut, 160.
    """
    reach, device = 0, next(network.parameters()).device
    with torch.inference_mode():
        for frames in _strips(images, network.multiple, strip, both_ways=both_ways):
            batch = torch.from_numpy(batch_from_frames(frames)).to(device)
            nothing = torch.zeros(1, network.context_length, device=device)
            whole, vectors = network(batch, nothing, torch.zeros(1, device=device))
            scale = whole.shape[-1] // batch.shape[-1]
            for cut in cuts:
                place = cut // network.multiple * network.multiple
                for part in (slice(None, place), slice(place, None)):
                    found, _ = network(batch[..., part], vectors, torch.ones(1, device=device))
                    start, stop = part.start or 0, part.stop or batch.shape[-1]
                    error = (found - whole[..., scale * start : scale * stop]).abs()
                    reach = max(reach, -(-_distance(error, from_end=start == 0) // scale))
    return reach


def _distance(error: torch.Tensor, *, from_end: bool) -> int:
    """Return how many columns from the cut the last one lies that exceeds the tolerance."""
    columns = error.amax((0, 1, 2)).cpu().numpy()
    if from_end:
        columns = columns[::-1]
    return int(np.max(np.nonzero(columns > TOLERANCE)[0], initial=-1)) + 1


def _strips(
    images: list[Frames], multiple: int, size: tuple[int, int], *, both_ways: bool
) -> Iterator[Frames]:
    height, width = (-(-side // multiple) * multiple for side in size)
    for image in images:
        for turned in (image, image.transpose(0, 2, 1, 3))[: 2 if both_ways else 1]:
            strip = turned[:, :height, :width]
            tall, wide = max(height, strip.shape[1]), max(width, strip.shape[2])
            yield pad_to(strip, tall, wide)
