"""The tasks that restore an input: those that were named, or those its frames need.

    --task NAME[,NAME] ─► choose_tasks(named, frames) ─► TaskChoice(tasks, line)

`mirnet restore` calls `choose_tasks` once for each image and each video, so that the network does
not change in the middle of one. `auto` looks at the frames (`diagnosis`), in place of a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.shipped import PREFIX, find_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mirnet_edge.images.contract import Frame

TASK_NAMES = ("low-light", "denoise", "super-resolution", "old-photo")
"""The tasks, each restored by the shipped bundle of its name."""
AUTO = "auto"
"""In place of names: the tasks that the frames need."""
DEFAULT_TASK = AUTO


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """The tasks of one input, and what to tell about them."""

    tasks: tuple[str, ...]
    """Of `TASK_NAMES`, in the order in which they are applied; empty for an input that is good as
    it is, whose result equals it."""
    line: str = ""
    """What was found and is done, in one line for people; empty where nothing was looked for."""


def choose_tasks(named: str, frames: Iterable[Frame]) -> TaskChoice:
    """Return the tasks of one input.

    Args:
        named: Tasks with commas between them, as `--task` takes them, or auto. Without a frame
            auto finds none.
        frames: (H, W, 3) uint8 RGB as a viewer shows them: an image's one frame, or a video's, one
            every few seconds, decoded on demand.

    Raises:
        OptionError: There is no such task.
    """
    if named.strip() != AUTO:
        return TaskChoice(tasks=parse_tasks(named))
    from mirnet_edge.diagnosis import diagnose_frames

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return TaskChoice(tasks=())
    found = diagnose_frames(chain((first,), frames))
    return TaskChoice(tasks=found.tasks, line=found.describe())


def check_one_of(task: str | None, bundle: str | None) -> None:
    """Refuse a task beside a bundle.

    Raises:
        OptionError: Both are given.
    """
    if task is not None and bundle is not None:
        raise OptionError(
            f"a task chooses bundles of this package, and a bundle is given too: found task {task} "
            f"and bundle {bundle}; give one of the two"
        )


def check_alone(weights: str, task: str | None, bundle: str | None) -> None:
    """Refuse weights beside a task or a bundle.

    Raises:
        OptionError: One of them is given too.
    """
    given = [f"task {task}"] if task is not None else []
    given += [f"bundle {bundle}"] if bundle is not None else []
    if given:
        raise OptionError(
            f"weights say what restores: found {weights} and {' and '.join(given)}; give one of "
            "them"
        )


def choose_bundles(
    task: str | None, bundle: str | None, frames: Iterable[Frame]
) -> tuple[tuple[Path, ...], TaskChoice | None]:
    """Return the folders of the bundles that restore one input, none where it is good as it is.

    Args:
        task: As `choose_tasks` takes it; None for `DEFAULT_TASK`.
        bundle: A bundle in place of a task.
        frames: As `choose_tasks` takes them.

    Returns:
        The folders, and the choice of tasks; None where a bundle is given.

    Raises:
        OptionError: There is no such task, or both are given.
        BundleError: The package ships no bundle of that name.
    """
    check_one_of(task, bundle)
    if bundle is not None:
        return (find_bundle(bundle),), None
    choice = choose_tasks(DEFAULT_TASK if task is None else task, frames)
    return tuple(find_bundle(PREFIX + one) for one in choice.tasks), choice


def parse_tasks(named: str) -> tuple[str, ...]:
    """Return the tasks of `--task`, in their order.

    Raises:
        OptionError: One is unknown, or named twice.
    """
    tasks = tuple(part.strip() for part in named.split(","))
    for task in tasks:
        if task not in TASK_NAMES:
            raise OptionError(
                f"--task must be {AUTO} or of {', '.join(TASK_NAMES)}, with commas between "
                f"several, found {task!r}"
            )
    if len(set(tasks)) < len(tasks):
        raise OptionError(f"--task {named} names a task twice; name each once")
    return tasks
