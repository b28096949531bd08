"""Other people's networks as ONNX files, run as fairly as ours: conversion and padding included.

Known are networks with one picture in and one out, NCHW float in [0, 1] or NHWC uint8, and two
that need more:

- Zero-DCE (Guo et al., CVPR 2020) gives 24 maps; the picture is brightened eight times by
  x + a (x^2 - x), three maps each.
- Bread (Guo and Hu, IJCV 2023) also takes `gamma` and `strength`, one number each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import EngineError
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Bread's brightness factor and denoising strength. Neither is written in the file: of gamma 0.5,
# 1, 1.3, 2.2 and strength 0, 0.05, 1 these gave the best PSNR on a LOL picture (2026-11).
EXTRA_INPUTS = {"gamma": 1.0, "strength": 0.05}
_CURVES, _CHANNELS = 8, 3
# What networks that halve the picture up to three times need; Bread fails on other sizes.
_MULTIPLE = 8
_EXPECTED = (
    "expected one picture, NCHW float or NHWC uint8 with 3 channels, and of other inputs only "
    f"{' and '.join(EXTRA_INPUTS)}"
)


def open_rival(path: Path, *, threads: int | None = None) -> RivalRunner:
    """Return a runner for an ONNX file; `with` opens it.

    Raises:
        EngineError: Not an ONNX file, or one with other inputs or outputs.
    """
    return RivalRunner(path, _contract_of(path), threads=threads)


class RivalRunner(OnnxRuntimeRunner):
    """A rival in ONNX Runtime on the processor."""

    def __init__(self, path: Path, image: ImageContract, *, threads: int | None = None) -> None:
        """Remember what to open.

        Args:
            path: The ONNX file.
            image: What it takes and gives.
            threads: How many one run may use; None for all that this process may use.
        """
        super().__init__(path, image, name=path.stem, precision="fp32", threads=threads)
        self._extra: dict[str, NDArray[Any]] = {}

    def _load(self) -> None:
        super()._load()
        picture, *others = _sorted_inputs(self._session)
        self._input = picture.name
        self._extra = {
            one.name: np.full([1] * len(one.shape), EXTRA_INPUTS[one.name], np.float32)
            for one in others
        }

    def _infer(self, fed: NDArray[Any]) -> NDArray[Any]:
        given = np.asarray(self._session.run(None, {self._input: fed, **self._extra})[0])
        if self.image.io == "float" and given.shape[1] == _CURVES * _CHANNELS:
            return brightened(fed, given)
        return given


def brightened(batch: NDArray[Any], curves: NDArray[Any]) -> NDArray[Any]:
    """Return what Zero-DCE's maps make of a picture.

    Args:
        batch: (N, 3, H, W) float32 in [0, 1].
        curves: (N, 24, H, W): a of x + a (x^2 - x), for three channels eight times.

    Returns:
        (N, 3, H, W) float32.
    """
    value = batch
    for step in range(_CURVES):
        strength = curves[:, _CHANNELS * step : _CHANNELS * (step + 1)]
        value = value + strength * (value * value - value)
    return value


def _contract_of(path: Path) -> ImageContract:
    """Return what a file takes, after refusing what we cannot feed or read."""
    session = _session(path)
    picture, *others = _sorted_inputs(session)
    known = {
        ("tensor(float)", 1): "float",
        ("tensor(uint8)", 3): "uint8",
    }
    places = [place for place, side in enumerate(picture.shape) if side == _CHANNELS]
    io = next((known[picture.type, one] for one in places if (picture.type, one) in known), None)
    strange = [one.name for one in others if one.name not in EXTRA_INPUTS]
    if io is None or len(picture.shape) != 4 or strange:
        raise EngineError(f"{path.name} takes {_told(session.get_inputs())}; {_EXPECTED}")
    output = session.get_outputs()[0]
    channels = output.shape[1 if io == "float" else 3] if len(output.shape) == 4 else None
    wrong = isinstance(channels, int) and channels not in (_CHANNELS, _CURVES * _CHANNELS)
    if output.type != picture.type or wrong:
        raise EngineError(
            f"{path.name} gives {_told([output])}; expected a picture like the one it takes, or "
            f"{_CURVES * _CHANNELS} curve maps"
        )
    sides = picture.shape[2:] if io == "float" else picture.shape[1:3]
    fixed = tuple(sides) if all(isinstance(side, int) for side in sides) else None
    return ImageContract(
        io="float" if io == "float" else "uint8",
        multiple=1 if fixed else _MULTIPLE,
        size=(fixed[0], fixed[1]) if fixed else None,
    )


def _session(path: Path) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
    require("onnxruntime", "an ONNX rival")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    options.intra_op_num_threads = 1
    if not path.is_file():
        raise EngineError(f"{path} is not there; expected an ONNX file")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen kinds
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"{path} is not an ONNX file that opens: {reason}; {_EXPECTED}"
        ) from error


def _sorted_inputs(session: Any) -> list[Any]:  # noqa: ANN401  # ONNX Runtime has no types
    """Return a session's inputs, the picture first."""
    return sorted(session.get_inputs(), key=lambda one: one.name in EXTRA_INPUTS)


def _told(tensors: list[Any]) -> str:
    return ", ".join(
        f"{one.name} {one.type.removeprefix('tensor')} {tuple(one.shape)}" for one in tensors
    )
