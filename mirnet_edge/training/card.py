"""The card of freshly trained weights: what they are, what they saw, how good they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.checkpoints import Card
from mirnet_edge.checkpoints.families import plain_config

if TYPE_CHECKING:
    from mirnet_edge.training.loop import Trainer
    from mirnet_edge.training.pairs import Pairs
    from mirnet_edge.training.record import Score


def card_of(task: str, trainer: Trainer, score: Score, train: Pairs, trained_on: str) -> Card:
    """Return the card of a trainer's averaged weights; saving it adds the network's config."""
    return Card(
        task=task,
        trained_on=trained_on,
        figures={
            "val_psnr_db": round(score.psnr_db, 4),
            "val_psnr_gtmean_db": round(score.psnr_gtmean_db, 4),
            "val_ssim": round(score.ssim, 5),
            "val_mae": round(score.mae, 5),
            "steps": score.step,
        },
        recipe=plain_config(trainer.recipe),
        data_sha256=train.sha256,
        revision=revision_of(Path(__file__).parents[2]),
    )


def revision_of(root: Path) -> str | None:
    """Return the commit a source tree stands at, with `+` where it was changed since.

    None for an installed package, which has no history.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    commit, changes = (
        subprocess.run([git, "-C", root, *words], capture_output=True, text=True, check=False)
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    )
    if commit.returncode or changes.returncode:
        return None
    return commit.stdout.strip() + ("+" if changes.stdout else "")
