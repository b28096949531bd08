"""A folder of damage to lay over clean pictures, split as pictures are: every tenth validates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.degradations import Overlay
from mirnet_edge.errors import DataError, ImageError, OptionError
from mirnet_edge.pictures import read_picture
from mirnet_edge.training.listing import list_pictures, split
from mirnet_edge.training.tasks import with_overlays

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.training.listing import Pair
    from mirnet_edge.training.tasks import Task

_TASK = "old-photo"


def overlaid_tasks(task: Task, folder: Path) -> tuple[Task, Task]:
    """Return the task with the folder's overlays: for training, and with others for validation.

    Raises:
        OptionError: The task is not that of old photographs.
        DataError: There are fewer than two overlays, or one cannot be read or hides nothing.
    """
    if task.name != _TASK:
        raise OptionError(f"--overlays damage the pictures of --task {_TASK}; found {task.name}")
    parts = split(list(list_pictures(folder)))
    train, validation = (
        with_overlays(task, [_overlay(pair) for pair in part]) for part in (parts.train, parts.val)
    )
    return train, validation


def _overlay(pair: Pair) -> Overlay:
    try:
        picture = read_picture(pair.high)
    except ImageError as error:
        raise DataError(str(error)) from error
    if picture.alpha is None or not picture.alpha.any():
        raise DataError(
            f"{pair.high} hides nothing; expected damage with transparency around it. Leave it out"
        )
    return Overlay(picture.frame, picture.alpha)
