"""Run the package's diagnosis network in ONNX Runtime."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.diagnosis.labels import LABELS
from mirnet_edge.diagnosis.result import SMALL_SIDE, Diagnosis
from mirnet_edge.diagnosis.views import stack_views, take_views
from mirnet_edge.errors import ImageError
from mirnet_edge.onnx_sessions import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from mirnet_edge.diagnosis.views import FrameViews
    from mirnet_edge.images.contract import Frame

GRAPH = Path(__file__).parent / "network.onnx"
"""The network that the package ships: uint8 views in, scores and sigma out."""
OVERVIEW, CROPS, SCORES, SIGMA = "overview", "crops", "scores", "sigma"
"""Inputs and outputs of the graph."""


def diagnose_frames(frames: Iterable[Frame]) -> Diagnosis:
    """Return the diagnosis of an image, or one of a video by several of its frames.

    Each score of several frames is their median, so that a label holds where it holds in at least
    half of them: a black frame between two scenes or a short flash decides nothing.

    Args:
        frames: (H, W, 3) uint8 RGB, at least one; only one is in memory at a time.

    Raises:
        ImageError: There is no frame, or one is no such array.
    """
    views, size = [], (0, 0)
    for frame in frames:
        views.append(take_views(frame))
        size = (frame.shape[0], frame.shape[1])
    if not views:
        raise ImageError("expected at least one frame, found none; give an image or a video")
    return diagnosis_from_scores(*score_views(stack_views(views)), size)


def diagnosis_from_scores(
    scores: NDArray[np.float32], sigma: NDArray[np.float32], size: tuple[int, int]
) -> Diagnosis:
    """Return the diagnosis that the network's outputs for some frames mean.

    Args:
        scores: (N, labels), each in [0, 1].
        sigma: (N,) in 8-bit levels.
        size: (height, width) of the frames.
    """
    medians = dict(zip(LABELS, np.median(scores, 0).tolist(), strict=True))
    if max(size) <= SMALL_SIDE:
        medians["low-resolution"] = 1.0
    return Diagnosis(
        scores=medians,
        sigma=float(np.median(sigma)),
        height=size[0],
        width=size[1],
        frames=len(scores),
    )


def score_views(views: FrameViews) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the network's scores, (N, labels) in [0, 1], and sigma, (N,), of stacked views."""
    feed = {OVERVIEW: views.overview, CROPS: views.crops}
    scores, sigma = open_session(GRAPH).run([SCORES, SIGMA], feed)
    return scores, sigma


@lru_cache(maxsize=2)
def open_session(graph: Path) -> OnnxSession:
    """Return ONNX Runtime's session of a diagnosis graph; opened once."""
    import onnxruntime

    return OnnxSession(str(graph), onnxruntime.SessionOptions(), name=graph.name)
