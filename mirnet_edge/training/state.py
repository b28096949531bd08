"""The state of a run on disk: what a run that was stopped goes on with."""

from __future__ import annotations

import io
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from mirnet_edge.errors import CheckpointError, MirnetEdgeError
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.training.loop import Trainer

logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"
_FREE_TO_CHANGE = {"validate_every"}


def save(trainer: Trainer) -> None:
    """Write the state to the trainer's folder, whole or not at all.

    Raises:
        MirnetEdgeError: The folder cannot be written; the former state is kept.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "step": trainer.step,
            "recipe": asdict(trainer.recipe),
            "model": trainer.model.state_dict(),
            "averaged": trainer.averaged.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
        },
        buffer,
    )
    path = trainer.folder / _STATE_FILE
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise MirnetEdgeError(
            f"{path} cannot be written ({error.strerror}) at step {trainer.step}; what was saved "
            "before is kept. Free the disk and give the same command to go on"
        ) from error


def resume(trainer: Trainer) -> bool:
    """Take up the last state of the trainer's folder; return whether there was one.

    Raises:
        CheckpointError: The state is damaged, or of another recipe or network.
    """
    path = trainer.folder / _STATE_FILE
    if not path.is_file():
        return False
    state = _read(path)
    different = sorted(
        name
        for name, value in asdict(trainer.recipe).items()
        if name not in _FREE_TO_CHANGE and state["recipe"].get(name) != value
    )
    if different:
        raise CheckpointError(
            f"{path} was trained with other values of {', '.join(different)}; give the same "
            "options, or another --out"
        )
    try:
        trainer.model.load_state_dict(state["model"])
        trainer.averaged.load_state_dict(state["averaged"])
        trainer.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} belongs to a network of another shape; give the same options, or another --out"
        ) from error
    trainer.step = int(state["step"])
    logger.info("resumed %s at step %d", path, trainer.step)
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all of them mean "damaged"
        # without its own words: they advise to unpickle what nobody vouches for
        raise CheckpointError(f"{path} is damaged; remove it to start anew") from error
    if not isinstance(state, dict) or {"step", "recipe", "model"} - set(state):
        raise CheckpointError(f"{path} is not a training state; remove it to start anew")
    return state
