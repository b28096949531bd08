"""The tasks that restore an input: those that were named, or those its frames need.

    --task NAME[,NAME] ─► choose_tasks(named, frames) ─► TaskChoice(tasks, line)

`mirnet restore` calls `choose_tasks` once for each image and each video. What looks at the frames,
in place of a name, is added there and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirnet_edge.images.contract import Frame

TASK_NAMES = ("low-light", "denoise", "super-resolution", "old-photo")
"""The tasks, each restored by the shipped bundle of its name."""
DEFAULT_TASK = "low-light"
_SHIPPED = "shipped:"


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """The tasks of one input, and what to tell about them."""

    tasks: tuple[str, ...]
    """Of `TASK_NAMES`, in the order in which they are applied; empty for an input that is good as
    it is, whose result equals it."""
    line: str = ""
    """What was found and is done, in one line for people; empty where nothing was looked for."""

    @property
    def bundles(self) -> tuple[str, ...]:
        """Return the names of the tasks' bundles, as `--bundle` takes them."""
        return tuple(_SHIPPED + task for task in self.tasks)


def choose_tasks(named: str, frames: Iterable[Frame]) -> TaskChoice:
    """Return the tasks of one input.

    Args:
        named: Tasks with commas between them, as `--task` takes them.
        frames: (H, W, 3) uint8 RGB as a viewer shows them: an image's one frame, or a video's, one
            every few seconds, decoded as they are asked for.

    Raises:
        OptionError: There is no such task.
    """
    del frames  # tasks that are named need no look at them
    return TaskChoice(tasks=parse_tasks(named))


def parse_tasks(named: str) -> tuple[str, ...]:
    """Return the tasks of `--task`, in their order.

    Raises:
        OptionError: One is unknown, or named twice.
    """
    tasks = tuple(part.strip() for part in named.split(","))
    for task in tasks:
        if task not in TASK_NAMES:
            raise OptionError(
                f"--task must be of {', '.join(TASK_NAMES)}, with commas between several, found "
                f"{task!r}"
            )
    if len(set(tasks)) < len(tasks):
        raise OptionError(f"--task {named} names a task twice; name each once")
    return tasks
