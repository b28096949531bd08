"""How much memory a run takes for each pixel: measured, because every backend has its own ways."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirnet_edge.runtime.runner import Runner

_WARM, _PROBE = 64, 384
"""Sides of the two frames that are run: the first so that what is loaded once is not counted."""
_INTERVAL_S = 0.002
_STATUS = Path("/proc/self/statm")
_PAGE_BYTES = 4096


def bytes_per_pixel(runner: Runner) -> float:
    """Return how many bytes more the process holds at most while a frame is run, per pixel.

    Args:
        runner: Open; for frames of any size.

    Raises:
        OptionError: This system does not say what a process holds.
    """
    if not _STATUS.is_file():
        raise OptionError(
            "--max-memory needs a Linux system, which says what a process holds; give --tile WxH"
        )
    warm, probe = (
        _noise(-(-side // runner.multiple) * runner.multiple) for side in (_WARM, _PROBE)
    )
    runner.run(warm)
    with _watched() as peak:
        runner.run(probe)
    before, most = peak
    height, width = probe.shape[1:3]
    return max(1.0, (most - before) / int(height * width))


def _noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Yield [bytes held now]; once left, [bytes held before, the most held meanwhile]."""
    held, done = [_held_bytes()], threading.Event()
    most = held[0]

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, _held_bytes())
            time.sleep(_INTERVAL_S)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield held
    finally:
        done.set()
        watcher.join()
        held.append(max(most, _held_bytes()))


def _held_bytes() -> int:
    return int(_STATUS.read_text().split()[1]) * _PAGE_BYTES
