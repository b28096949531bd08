"""The pictures of a training run: read, made bad, labelled and mixed as was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mirnet_edge.errors import DataError
from mirnet_edge.training.listing import list_pairs, list_pictures
from mirnet_edge.training.overlays import overlaid_tasks
from mirnet_edge.training.pairs import (
    Pairs,
    load_pairs,
    made_bad,
    mixed,
    require_measurable,
    with_monochrome,
)
from mirnet_edge.training.tasks import with_capture
from mirnet_edge.training.unlabelled import labelled, require_pairs, together

if TYPE_CHECKING:
    from torch import nn

    from mirnet_edge.training.listing import Pair
    from mirnet_edge.training.recipe import Recipe
    from mirnet_edge.training.request import Request
    from mirnet_edge.training.tasks import Task


class Reader(Protocol):
    """Who is told how far the reading is."""

    def reading(self, total: int) -> None:
        """So many pictures are about to be read."""

    def read(self) -> None:
        """One more picture was read."""

    def labelling(self, total: int) -> None:
        """The teacher is about to label so many pictures."""

    def labelled(self) -> None:
        """It labelled one more."""


@dataclass(frozen=True)
class Data:
    """What a run learns from and is judged by."""

    train: Pairs
    validation: Pairs
    former: Pairs | None
    """Of `Request.replay`, those that validate; None where nothing is to be kept."""


def read_data(
    request: Request, recipe: Recipe, task: Task, teacher: nn.Module | None, reader: Reader
) -> Data:
    """Return the pictures that a request names.

    Raises:
        DataError: A folder holds something else, or pictures do not fit each other.
        OptionError: The task has no use for what was asked for.
    """
    listing = list_pairs(request.data)
    replay = None if request.replay is None else list_pairs(request.replay)
    replayed = () if replay is None else replay.train
    former = () if replay is None or request.keep_db is None else replay.val
    alone = () if request.unlabelled is None else list_pictures(request.unlabelled)
    training, validating = task, task
    if request.overlays is not None:
        training, validating = overlaid_tasks(task, request.overlays)
    reader.reading(sum(map(len, (listing.train, listing.val, replayed, former, alone))))

    def loaded(pairs: tuple[Pair, ...], task: Task = training) -> Pairs:
        return load_pairs(
            pairs, degrade=task.degrade, scale=task.scale, on_loaded=lambda _: reader.read()
        )

    train, validation = loaded(listing.train), made_bad(loaded(listing.val, validating))
    require_measurable(validation)
    if request.overlays is not None and train.degrade is None:
        raise DataError(
            "--overlays are laid over clean pictures; found pairs in --data. Give a folder of "
            "clean pictures alone"
        )
    if alone and teacher is not None:
        require_pairs(train)  # before the teacher takes its time
        pictures = loaded(alone)
        reader.labelling(len(pictures))
        train = together(train, labelled(pictures, teacher, task.scale, reader.labelled))
    if replayed:
        train = mixed(train, loaded(replayed))
    degrade = train.degrade
    if degrade is not None and recipe.monochrome_share:
        train = with_monochrome(train, recipe.monochrome_share)
    if degrade is not None and recipe.capture_share:
        train = replace(train, degrade=with_capture(degrade, recipe.capture_share))
    kept = made_bad(loaded(former, validating)) if former else None
    if kept is not None:
        require_measurable(kept)
    return Data(train, validation, kept)
