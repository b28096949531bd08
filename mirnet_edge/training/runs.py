"""Train in several runs, each from the weights of the run before, as a recipe's [[runs]] say.

    recipe ─► run 1 ─► weights ─► run 2 ─► weights ─► ... ─► OUT/TASK.safetensors

Every run has a folder of its own, `OUT/run-1` and so on, with its training state, history and
weights, and `run.json`, what the recipe said of it: the same command skips the finished ones and
resumes the one that was stopped. A run that ends otherwise than before (interpolated, or without
other channels) ends again from its training state.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints.families import plain_config
from mirnet_edge.errors import CheckpointError, OptionError
from mirnet_edge.files import sha256_of, write_atomically
from mirnet_edge.training.job import (
    TrainingObserver,
    TrainingRequest,
    TrainingResult,
    resolve_request,
    train_weights,
)
from mirnet_edge.training.recipe import TrainingRun, read_recipe

if TYPE_CHECKING:
    from pathlib import Path

_RUN_FILE = "run.json"


class RunObserver(TrainingObserver, Protocol):
    """Callbacks while runs follow each other."""

    def on_run(self, number: int, runs: int, *, is_finished: bool) -> None:
        """Run NUMBER of RUNS, from 1, begins or resumes, or is skipped since it is finished."""


def train_by_recipe(request: TrainingRequest, observer: RunObserver) -> TrainingResult:
    """Train as the recipe says, in one run or several; write `OUT/TASK.safetensors`.

    Args:
        request: Of all runs together; `init` are the weights that the first one starts from.
        observer: Receives which run begins, and its progress.

    Returns:
        The result of the last run, or of the one that was stopped when the time was up.

    Raises:
        OptionError: The request overrides what each run has of its own.
        MirnetEdgeError: As `train_weights`.
    """
    runs = () if request.recipe is None else read_recipe(request.recipe).runs
    if not runs:
        return train_weights(request, observer)
    _require_no_overrides(request)
    started, init = time.monotonic(), request.init
    for number, run in enumerate(runs, 1):
        out = request.out / f"run-{number}"
        weights = out / f"{request.task}.safetensors"
        one = replace(
            request,
            run=number,
            data=request.data / run.data,
            out=out,
            init=init,
            init_key=request.init_key if number == 1 else None,
            qat=run.qat,
            interpolation=run.interpolation,
            silence_fraction=run.silence_fraction,
            max_seconds=max(0.0, request.max_seconds - (time.monotonic() - started)),
        )
        # the last one is never skipped: its data are read again, to score the weights
        is_finished = number < len(runs) and _is_finished(weights, one, run)
        observer.on_run(number, len(runs), is_finished=is_finished)
        if not is_finished:
            result = train_weights(one, observer)
            if result.score.step < result.steps:
                return result
            write_atomically(out / _RUN_FILE, run.model_dump_json(indent=1).encode())
        init = str(weights)
    finished = request.out / weights.name
    write_atomically(finished, weights.read_bytes())
    return replace(result, weights=finished)


def _is_finished(weights: Path, request: TrainingRequest, run: TrainingRun) -> bool:
    """Return whether a run of this recipe and `init` wrote these weights at its last step."""
    if not weights.is_file() or _read_run(weights.with_name(_RUN_FILE)) != run:
        return False
    try:
        card = checkpoints.load(str(weights)).card
    except CheckpointError:  # the run writes it again
        return False
    recipe, _ = resolve_request(request)
    parent = None if request.init is None else sha256_of(checkpoints.resolve(request.init))
    is_trained = card.figures.get("steps") == recipe.steps
    return is_trained and card.recipe == plain_config(recipe) and card.parent == parent


def _read_run(path: Path) -> TrainingRun | None:
    """Return the run that a folder was finished by; None where it is unknown."""
    try:
        return TrainingRun.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # the run ends again, from its training state
        return None


def _require_no_overrides(request: TrainingRequest) -> None:
    """Refuse options that belong to a single run.

    Raises:
        OptionError: One was given.
    """
    if request.training or request.network or request.architecture:
        names = [*request.training, *request.network, *(["model"] if request.architecture else [])]
        raise OptionError(
            f"the recipe {request.recipe} has several runs with values of their own; found an "
            f"option for {', '.join(names)}. Leave it out, or copy the recipe and change it there"
        )
    if request.qat or request.replay is not None:
        raise OptionError(
            f"the recipe {request.recipe} has several runs; leave out --qat, --replay and --keep, "
            "which train one run"
        )
