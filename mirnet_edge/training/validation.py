"""How good weights are: means over whole frames that training never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mirnet_edge import images, metrics

if TYPE_CHECKING:
    from mirnet_edge.models.edge import MIRNetEdge
    from mirnet_edge.training.pairs import Pairs

_FIGURES = (metrics.psnr, metrics.psnr_gtmean, metrics.ssim, metrics.mae)


def validate(model: MIRNetEdge, pairs: Pairs) -> tuple[float, float, float, float]:
    """Return mean PSNR in dB, the same brightness-matched, SSIM, and absolute error on [0, 1].

    The output is measured as it will be seen, in 8 bits.
    """
    rows = []
    for low, high in zip(pairs.low, pairs.high, strict=True):
        frames = low.permute(1, 2, 0).numpy()[None]
        padded = images.pad_to_multiple(frames, model.multiple)
        with torch.inference_mode():
            restored = model(torch.from_numpy(images.batch_from_frames(padded)))
        output = images.crop_to(images.frames_from_batch(restored.numpy()), *frames.shape[1:3])
        reference = high.permute(1, 2, 0).numpy()[None]
        rows.append([float(figure(output, reference)[0]) for figure in _FIGURES])
    psnr_db, gtmean_db, ssim, mae = (
        sum(column) / len(column) for column in zip(*rows, strict=True)
    )
    return psnr_db, gtmean_db, ssim, mae
