"""The answer before the build: for each device what to expect, and what to take instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError
from mirnet_edge.planning.devices import DEVICES, Device, device_of
from mirnet_edge.planning.roofline import predict, rate_text, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.manifest import Precision
    from mirnet_edge.planning.cost import Cost
    from mirnet_edge.planning.roofline import Prediction

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
# The networks of the papers, at the widths of the papers.
_FULL = ("mirnet", "mirnet-v2")


@dataclass(frozen=True)
class Answer:
    """One device: the prediction in every precision, and the sentence."""

    device: Device
    predictions: tuple[Prediction, ...]
    best: Prediction
    sentence: str
    instead: str
    """What to take where it does not do; empty where it does."""


def plan(
    weights: str, devices: Sequence[str], height: int, width: int, fps: float
) -> tuple[Cost, list[Answer]]:
    """Return what one frame costs and an answer per device. All of it is predicted.

    Args:
        weights: A weights file, shipped:NAME, a bundle, or mirnet or mirnet-v2 for the networks
            of the papers.
        devices: Names in the table; `all`; or `here` for this processor, measured in a second.
        height: Of the frames.
        width: The same.
        fps: The rate that is wanted.

    Raises:
        OptionError: No such device, or a size or rate that is not positive.
        CheckpointError: The weights cannot be opened.
        MissingDependencyError: torch is not installed.
    """
    if min(height, width) < 1 or not fps > 0:
        raise OptionError(f"size and rate must be positive, found {width}x{height} at {fps:g} fps")
    require("torch", "predicting from weights")
    chosen = _chosen(devices)
    cost = _cost(weights, height, width)
    instead = _cost("shipped:low-light", height, width)
    return cost, [_answer(weights, cost, device, fps, instead) for device in chosen]


def _chosen(names: Sequence[str]) -> list[Device]:
    from mirnet_edge.planning.here import device_here

    if list(names) == ["all"]:
        return list(DEVICES.values())
    return [device_here() if name == "here" else device_of(name) for name in names]


def _cost(weights: str, height: int, width: int) -> Cost:
    from mirnet_edge.planning.cost import cost_of

    return cost_of(_network(weights), height, width)


def _network(weights: str) -> Any:  # noqa: ANN401  # networks have no type in common
    import torch

    from mirnet_edge import checkpoints
    from mirnet_edge.manifest import FILE_NAME, checked_path, read_manifest
    from mirnet_edge.models.mirnet import MIRNet
    from mirnet_edge.models.mirnet_v2 import MIRNetV2

    if weights in _FULL:
        with torch.device("meta"):  # their values do not matter, and 127 MB need not be made
            return MIRNet() if weights == "mirnet" else MIRNetV2()
    path = Path(weights)
    if (path / FILE_NAME).is_file():
        weights = str(checked_path(path, read_manifest(path).model.weights))
    return checkpoints.load(weights).model


def _answer(name: str, cost: Cost, device: Device, fps: float, instead: Cost) -> Answer:
    predictions = tuple(predict(cost, device, precision, fps) for precision in _PRECISIONS)
    # fp16 keeps the quality wherever a GPU is; INT8 is for those that need it
    usual = predictions[1 if device.is_gpu else 0]
    best = usual if usual.can else max(predictions, key=lambda one: one.best_fps)
    what = f"full {name} (papers' width)" if name in _FULL else name
    advice = ""
    if not best.can or best.worst_fps < fps:
        other = predict(instead, device, best.precision, fps)
        if other.best_fps > 1.2 * best.best_fps and other.can:
            advice = (
                f"take shipped:low-light or edge weights of your task: likely "
                f"{rate_text(other.worst_fps)} to {rate_text(other.best_fps)} fps"
            )
        else:
            quarter = rate_text(best.best_fps * 4)
            advice = f"halve both sides: a quarter of the work, {quarter} fps at best"
    return Answer(device, predictions, best, verdict(what, cost, best), advice)
