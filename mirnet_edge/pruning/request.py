"""What is to be pruned, and how; refusing what makes no sense before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from mirnet_edge import checkpoints
from mirnet_edge.errors import OptionError
from mirnet_edge.models.macs import count_macs, count_parameters
from mirnet_edge.pruning.guards import require_memory
from mirnet_edge.pruning.record import (
    RECORD_FILE,
    Asked,
    PruneRecord,
    Size,
    begun,
    read_record,
)
from mirnet_edge.pruning.scoring import require_importance
from mirnet_edge.pruning.table import conditions_of
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.recipe import Recipe, read_recipe, recipe_from, require_crops
from mirnet_edge.training.request import device_of
from mirnet_edge.training.tasks import task_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mirnet_edge.checkpoints.card import Card
    from mirnet_edge.pruning.shortening import Kept
    from mirnet_edge.training.tasks import Task

PRUNE = "prune"
"""The recipe of what is trained after a cut."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be pruned. One of `speedup`, `latency_ms` and `like` is given."""

    weights: str
    data: Path
    """A folder as `training.listing.list_pairs` reads it."""
    out: Path
    """Folder for the tables, the rounds, the record and the finished weights."""
    speedup: float | None = None
    latency_ms: float | None = None
    like: Path | None = None
    """Folder of another run, of weights of the same config: cut to its blocks and widths."""
    task: str | None = None
    """None: as the weights' card says."""
    backend: str = "openvino"
    size: tuple[int, int] = (256, 256)
    """(height, width) of the frame that is timed."""
    importance: str = "taylor"
    round_to: int = 8
    blocks: bool = False
    """Whether whole blocks and groups may go too."""
    rounds: int = 1
    recipe: str = PRUNE
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe that are to be other than it says."""
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    max_seconds: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A request whose parts were found and fit each other, and what an earlier run did of it."""

    request: Request
    network: nn.Module
    """The unpruned one."""
    card: Card
    sha256: str
    task: Task
    recipe: Recipe
    record: PruneRecord

    @property
    def like(self) -> dict[str, Any] | None:
        """Return what another run kept, where it decides."""
        return self.record.asked.like

    def require_needed(self, target_ms: float, unpruned_ms: float) -> None:
        """Refuse a target that the unpruned network reaches.

        Raises:
            OptionError: It does.
        """
        if target_ms >= unpruned_ms:
            raise OptionError(
                f"the unpruned network takes {unpruned_ms:.2f} ms a frame here, less than the "
                f"target of {target_ms:.2f} ms; there is nothing to prune. Ask for less time"
            )


def opened(request: Request) -> Opened:
    """Return the request with its weights, task, recipe and record; writes nothing.

    Raises:
        MirnetEdgeError: An option makes no sense, a backend is not here, or weights, pictures or
            the folder's record cannot be read or are of something else.
    """
    _require_sane(request)
    device_of(request.device, "fp32")
    loaded = checkpoints.load(request.weights)
    task = _task(request, loaded.card)
    training = {**request.training, "seed": request.seed}
    recipe = recipe_from({**read_recipe(request.recipe).training, **training}, request.recipe)
    network: Any = loaded.model
    require_crops(recipe, network.multiple * task.scale)
    conditions = conditions_of(network, request.backend, request.size, request.round_to)
    list_pairs(request.data)
    asked = Asked(
        weights_sha256=loaded.sha256,
        data=str(request.data.resolve()),
        task=task.name,
        speedup=request.speedup,
        latency_ms=request.latency_ms,
        like=None if request.like is None else _kept_by(request.like, conditions.config),
        backend=request.backend,
        size=request.size,
        importance=request.importance,
        round_to=request.round_to,
        blocks=request.blocks,
        rounds=request.rounds,
        recipe=request.recipe,
        training={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in request.training.items()
        },
        seed=request.seed,
    )
    whole = size_of(network, request.size)
    fresh = PruneRecord(asked=asked, conditions=conditions, unpruned_size=whole)
    record = begun(request.out, fresh)
    if not record.finished:
        require_memory(
            network,
            backend=request.backend,
            size=request.size,
            batch=recipe.batch,
            crop=recipe.crops[0],
        )
    return Opened(
        request=request, network=network, card=loaded.card, sha256=loaded.sha256, task=task,
        recipe=recipe, record=record,
    )  # fmt: skip


def config_like(given: Opened) -> tuple[Kept, Any]:
    """Return the blocks and the config that another run kept.

    Raises:
        OptionError: They make no network of this family.
    """
    like: Any = given.like
    network: Any = given.network
    try:
        config = TypeAdapter(type(network.config)).validate_python(like["config"])
    except ValidationError as error:
        raise OptionError(
            "the run in --like is of another kind of network; give one of the same family"
        ) from error
    return like["kept"], config


def size_of(network: nn.Module, size: tuple[int, int]) -> Size:
    """Return how large a network is, for frames of (height, width)."""
    return Size(gmacs=count_macs(network, *size) / 1e9, parameters=count_parameters(network))


def _kept_by(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    path = folder / RECORD_FILE
    record = read_record(path)
    if len(record.rounds) != 1:
        raise OptionError(
            f"{path} has {len(record.rounds)} rounds; --like needs a run of one round that was cut"
        )
    if record.conditions.config != config:
        raise OptionError(
            f"{path} is of a network of another config than these weights; give a run that began "
            "with the same"
        )
    (only,) = record.rounds
    return {"kept": only.kept, "config": only.chosen.config}


def _require_sane(request: Request) -> None:
    targets = (request.speedup, request.latency_ms, request.like)
    given = sum(one is not None for one in targets)
    if given != 1:
        raise OptionError(
            f"expected one of --speedup, --target-latency and --like, found {given or 'none'}"
        )
    if request.speedup is not None and not 1.0 < request.speedup < math.inf:
        raise OptionError(f"--speedup must be above 1, found {request.speedup:g}")
    if request.latency_ms is not None and not 0.0 < request.latency_ms < math.inf:
        raise OptionError(f"--target-latency must be above 0 ms, found {request.latency_ms:g}")
    if request.rounds < 1:
        raise OptionError(f"--rounds must be at least 1, found {request.rounds}")
    if request.like is not None and (request.rounds > 1 or request.blocks):
        raise OptionError("--like brings blocks and widths along; leave out --rounds and --blocks")
    if not request.max_seconds > 0.0:
        raise OptionError(f"--max-minutes must be above 0, found {request.max_seconds / 60:g}")
    if request.workers < 0:
        raise OptionError(f"--workers must not be negative, found {request.workers}")
    require_importance(request.importance)


def _task(request: Request, card: Card) -> Task:
    if request.task is None and card.task == "unknown":
        raise OptionError(
            f"{request.weights} does not say what it restores; give --task, for example low-light"
        )
    return task_of(request.task or card.task)
