"""Try one graph against fp32 on one backend: what it loses, where, and what it wins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from mirnet_edge.dependencies import available
from mirnet_edge.errors import OptionError
from mirnet_edge.export.gate import compare
from mirnet_edge.images import LUMA
from mirnet_edge.runtime.measure import measure_interleaved, p50
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirnet_edge.calibration.sets import Sample
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.runner import Runner

TrialBackend = Literal["openvino", "onnxruntime", "tensorrt"]

# Levels of the fp32 output's luma that part the picture: INT8's error sits in the dark, where the
# eye sees it best.
DARKNESS = {"dark": (0, 32), "middle": (32, 96), "bright": (96, 256)}
_ROUNDS, _WARMUP = 9, 2
# identical pictures have no PSNR that JSON can say
_MOST_DB = 100.0


@dataclass(frozen=True)
class Trial:
    """What was measured."""

    loss_db: float
    """How much worse than fp32; see `gate.Figures`."""
    against_fp32_db: float
    darkness_db: dict[str, float | None]
    """PSNR against fp32 over the pixels of each bin of `DARKNESS`; None for an empty bin."""
    fp32_ms: float | None
    """Median; None where the backend is not here and only its numbers are."""
    ratio: float | None
    """Median, round by round, of the time over that of fp32."""

    @property
    def won_ms(self) -> float | None:
        """Return how much less time than fp32 it takes; negative where it takes more."""
        if self.fp32_ms is None or self.ratio is None:
            return None
        return self.fp32_ms * (1.0 - self.ratio)


class Judge:
    """Tries graphs of one network on one backend. fp32 restores the pictures once."""

    def __init__(
        self,
        fp32: Path,
        image: ImageContract,
        samples: Sequence[Sample],
        frame: Frames,
        backend: TrialBackend,
        *,
        rounds: int = _ROUNDS,
    ) -> None:
        """Restore the samples in fp32.

        Args:
            fp32: The graph that all others are compared with.
            image: What the graphs take and give.
            samples: What to judge on.
            frame: (1, H, W, 3) uint8, what is timed.
            backend: `tensorrt` is simulated by ONNX Runtime and not timed.
            rounds: How often each of the two is timed, interleaved.
        """
        self.backend = backend
        self._image, self._samples, self._frame, self._rounds = image, samples, frame, rounds
        self._fp32 = self.runner(fp32, "fp32")
        self._expected = self._restored(self._fp32)

    def runner(self, graph: Path, precision: Precision) -> Runner:
        """Return what runs a graph on this backend, or stands in for it."""
        name = f"{self.backend}:{precision}"
        if self.backend == "openvino":
            from mirnet_edge.runtime.openvino_runner import OpenVinoRunner

            return OpenVinoRunner(graph, self._image, name=name, precision=precision)
        return OnnxRuntimeRunner(
            graph, self._image, name=name, precision=precision,
            optimize=self.backend != "tensorrt",
        )  # fmt: skip

    def tried(self, graph: Path, precision: Precision = "int8") -> Trial:
        """Return what a graph loses and wins.

        Raises:
            EngineError: The backend cannot run it.
        """
        runner = self.runner(graph, precision)
        outputs = self._restored(runner)
        figures = compare(outputs, self._expected, self._samples, None)
        fp32_ms = ratio = None
        if self.backend != "tensorrt":
            taken = measure_interleaved(
                {"fp32": self._fp32, precision: runner},
                self._frame,
                warmup=_WARMUP,
                rounds=self._rounds,
            )
            fp32_ms = p50(taken["fp32"])
            pairs = zip(taken[precision], taken["fp32"], strict=True)
            ratio = p50([one / two for one, two in pairs])
        mean_db = figures.against_fp32.mean_db
        return Trial(
            figures.loss_db,
            _MOST_DB if mean_db is None else mean_db,
            darkness_db(outputs, self._expected),
            fp32_ms,
            ratio,
        )

    def _restored(self, runner: Runner) -> list[np.ndarray]:
        with runner:
            return [runner.run(sample.frame[None]) for sample in self._samples]


def darkness_db(
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """Return the PSNR over all pixels of each bin of `DARKNESS`, by the luma of what is expected.

    Args:
        outputs: (N, H, W, 3) uint8 arrays.
        expected: The same shapes, by fp32.
    """
    errors, counts = dict.fromkeys(DARKNESS, 0.0), dict.fromkeys(DARKNESS, 0)
    for one, two in zip(outputs, expected, strict=True):
        luma = two @ LUMA
        squares = np.square(one.astype(np.float64) - two).mean(-1)
        for name, (low, high) in DARKNESS.items():
            inside = (luma >= low) & (luma < high)
            errors[name] += float(squares[inside].sum())
            counts[name] += int(inside.sum())
    return {name: _decibels(errors[name], counts[name]) for name in DARKNESS}


def _decibels(error: float, count: int) -> float | None:
    if not count:
        return None
    if not error:
        return _MOST_DB
    return min(_MOST_DB, -10.0 * math.log10(error / count / 255.0**2))


def trial_backend(name: str) -> TrialBackend:
    """Return the backend of that name; `auto` is the fastest CPU backend that is installed.

    Raises:
        OptionError: No such backend, or it is not installed.
    """
    if name == "auto":
        return "openvino" if available("openvino") else "onnxruntime"
    if name not in get_args(TrialBackend):
        raise OptionError(
            f"--backend must be auto or one of {', '.join(get_args(TrialBackend))}, found {name!r}"
        )
    if name == "openvino" and not available(name):
        raise OptionError('--backend openvino is not installed: pip install "mirnet-edge[cpu]"')
    return name  # type: ignore[return-value]  # one of them
