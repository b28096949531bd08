"""The state of a run on disk: what a run that was stopped goes on with."""

from __future__ import annotations

import io
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from mirnet_edge.errors import CheckpointError
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.training.loop import Trainer

logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"
_KEYS = {"step", "recipe", "start", "model", "averaged", "optimizer", "scaler"}
_FREE_TO_CHANGE = {"validate_every"}


def save(trainer: Trainer) -> None:
    """Write the state to the trainer's folder, whole or not at all.

    Raises:
        MirnetEdgeError: The folder cannot be written, or the disk is full; the former state is
            kept.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "step": trainer.step,
            "recipe": asdict(trainer.recipe),
            "model": trainer.model.state_dict(),
            "averaged": trainer.averaged.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "start": trainer.start,
        },
        buffer,
    )
    write_atomically(trainer.folder / _STATE_FILE, buffer.getvalue())


def exists(folder: Path) -> bool:
    """Say whether a run left a state in FOLDER."""
    return (folder / _STATE_FILE).is_file()


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
    if state["start"] != trainer.start:
        different.append("--init, --teacher, --replay or the data")
    if different:
        raise CheckpointError(
            f"{path} was trained with other values of {', '.join(different)}; give the same "
            "options, or another --out"
        )
    try:
        trainer.model.load_state_dict(state["model"])
        trainer.averaged.load_state_dict(state["averaged"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
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
    if not isinstance(state, dict) or _KEYS - set(state):
        raise CheckpointError(f"{path} is not a training state; remove it to start anew")
    return state
