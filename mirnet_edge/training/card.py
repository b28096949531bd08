"""The card of freshly trained weights: what they are, what they saw, how good they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from mirnet_edge.checkpoints import Card

if TYPE_CHECKING:
    from mirnet_edge.training.loop import Score, Trainer
    from mirnet_edge.training.pairs import Pairs


def card_of(task: str, trainer: Trainer, score: Score, train: Pairs, trained_on: str) -> Card:
    """Return the card of a trainer's averaged weights; saving it adds the network's config."""
    return Card(
        task=task,
        trained_on=trained_on,
        figures={
            "val_psnr_db": round(score.psnr_db, 4),
            "val_psnr_gtmean_db": round(score.psnr_gtmean_db, 4),
            "val_ssim": round(score.ssim, 5),
            "steps": score.step,
        },
        recipe=asdict(trainer.recipe),
        data_sha256=train.sha256,
    )
