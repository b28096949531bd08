"""What an anchored export adds: the anchored form, its vectors, and how far a cut reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.images import batch_from_frames, pad_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from mirnet_edge.calibration.sets import CalibrationSet
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import ImageContract
    from mirnet_edge.models.anchoring import Anchored

# A cut is seen where it changes the output by more: a fortieth of an 8-bit level.
TOLERANCE = 1e-4
_PICTURES = 4
# Strips of this (height, width): 32768 pixels cost the full MIRNet 0.24 TMACs, seconds.
_STRIP = (64, 512)
_CUTS = (160, 256, 352)


def anchored_form(network: nn.Module) -> Anchored:
    """Return the anchored form of a network, in eval mode."""
    from mirnet_edge.models.anchoring import Anchored

    return Anchored(network).eval()


def anchored_contract(
    image: ImageContract, network: nn.Module, pictures: CalibrationSet
) -> ImageContract:
    """Return the contract of the network's anchored graphs."""
    anchored = anchored_form(network)
    frames = [sample.frame[None] for sample in pictures.judging[:_PICTURES]]
    return image.model_copy(
        update={"vectors": anchored.layout, "reach": measured_reach(anchored, frames)}
    )


def measured_reach(network: Anchored, pictures: list[Frames]) -> int:
    """Return how far from a cut, in pixels, the output differs from that of the uncut frame.

    The frame's own vectors are given to both, so that what differs is what convolutions see
    beyond the cut. How far that is in theory, a network's receptive field, is several times more
    than matters.

    Args:
        network: In eval mode.
        pictures: (1, H, W, 3) uint8 each; long strips are taken out of them both ways.

    Returns:
        The largest distance at which more than `TOLERANCE` was seen on either side; at most the
        shortest side of a cut, 160.
    """
    import torch

    reach = 0
    with torch.inference_mode():
        for strip in _strips(pictures, network.multiple):
            batch = torch.from_numpy(batch_from_frames(strip))
            nothing = torch.zeros(1, network.vector_length)
            whole, vectors = network(batch, nothing, torch.zeros(1))
            scale = whole.shape[-1] // batch.shape[-1]
            for cut in _CUTS:
                place = cut // network.multiple * network.multiple
                for part in (slice(None, place), slice(place, None)):
                    found, _ = network(batch[..., part], vectors, torch.ones(1))
                    start, stop = part.start or 0, part.stop or batch.shape[-1]
                    error = (found - whole[..., scale * start : scale * stop]).abs()
                    reach = max(reach, -(-_distance(error, from_end=start == 0) // scale))
    return reach


def _distance(error: torch.Tensor, *, from_end: bool) -> int:
    """Return how many columns from the cut the last one lies that exceeds the tolerance."""
    columns = error.amax((0, 1, 2)).numpy()
    if from_end:
        columns = columns[::-1]
    return int(np.max(np.nonzero(columns > TOLERANCE)[0], initial=-1)) + 1


def _strips(pictures: list[Frames], multiple: int) -> Iterator[Frames]:
    height, width = (-(-side // multiple) * multiple for side in _STRIP)
    for picture in pictures:
        for turned in (picture, picture.transpose(0, 2, 1, 3)):
            strip = turned[:, :height, :width]
            tall, wide = max(height, strip.shape[1]), max(width, strip.shape[2])
            yield pad_to(strip, tall, wide)
