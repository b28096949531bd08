"""How good weights are: means over whole frames that training never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mirnet_edge import images, metrics

if TYPE_CHECKING:
    from torch import nn

    from mirnet_edge.images import Frames
    from mirnet_edge.training.pairs import Pairs

_FIGURES = (metrics.psnr, metrics.psnr_gtmean, metrics.ssim, metrics.mae)


def validate(model: nn.Module, pairs: Pairs) -> tuple[float, float, float, float]:
    """Return mean PSNR in dB, the same brightness-matched, SSIM, and absolute error on [0, 1].

    The output is measured as it will be seen, in 8 bits. `pairs` holds bad pictures.
    """
    rows = []
    for low, high in zip(pairs.low, pairs.high, strict=True):
        output = restored(model, low[None], pairs.scale)
        rows.append([float(figure(output, high[None])[0]) for figure in _FIGURES])
    psnr_db, gtmean_db, ssim, mae = (
        sum(column) / len(column) for column in zip(*rows, strict=True)
    )
    return psnr_db, gtmean_db, ssim, mae


def restored(model: nn.Module, frames: Frames, scale: int = 1) -> Frames:
    """Return what a network makes of whole frames, (N, H, W, 3) uint8, of any size."""
    height, width = frames.shape[1:3]
    padded = images.pad_to_multiple(frames, model.multiple)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    with torch.inference_mode():
        batch = model(torch.from_numpy(images.batch_from_frames(padded)).to(device))
    return images.crop_to(
        images.frames_from_batch(batch.cpu().numpy()), scale * height, scale * width
    )
