"""The gate: which precisions may be used, decided by measured dB and milliseconds.

A mode is a graph as one backend runs it. Each is compared with fp32, image by image, and
timed against fp32 on the same backend in interleaved runs. The verdict is a pure function of
those figures, so it can be read, and tested, without measuring anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import GraphError
from mirnet_edge.manifest import BackendName, Configuration, LatencyFacts, Precision, QualityFacts
from mirnet_edge.metrics import psnr
from mirnet_edge.runtime.measure import measure_interleaved, percentile

if TYPE_CHECKING:
    import numpy as np

    from mirnet_edge.calibration.sets import CalibrationSample
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner

# A mode that wins less than this over fp32 is not worth a second set of numbers: two runs of one
# graph differ by as much.
FASTER_AT_MOST = 0.97
# Where no reference exists, the loss is what independent errors would cost an image that fp32
# restores at this PSNR.
ASSUMED_TRUTH_DB = 30.0

Measure = Callable[[Mapping[str, "Runner"], "Frames"], dict[str, list[float]]]


@dataclass(frozen=True)
class GateCandidate:
    """A mode that asks to be accepted."""

    backend: BackendName
    precision: Precision
    graph: str
    runner: Runner
    """Runs the graph; where the backend is not here, ONNX Runtime does, unoptimized."""
    timed: bool
    """Whether `runner` is the backend itself, so that its time means something."""

    @property
    def name(self) -> str:
        """Return `backend:precision`."""
        return f"{self.backend}:{self.precision}"


@dataclass(frozen=True)
class GateResult:
    """What was found out about one mode."""

    against_fp32: QualityFacts
    against_truth: QualityFacts | None
    drop_db: float
    """How much worse than fp32, in dB: of the mean PSNR against the references, or estimated
    from the mean PSNR against fp32 where there are none."""
    latency: LatencyFacts | None


def run_gate(
    candidates: Sequence[GateCandidate],
    samples: Sequence[CalibrationSample],
    *,
    max_drop_db: float,
    timing_frame: Frames,
    measure: Measure = measure_interleaved,
    on_progress: Callable[[str], None] = lambda what: None,
) -> list[Configuration]:
    """Measure every candidate and say which are accepted.

    Args:
        candidates: The first one is the reference: fp32 on a backend that is present.
        samples: What to judge on.
        max_drop_db: The loss that is still accepted.
        timing_frame: (1, H, W, 3) uint8, what the timed candidates are timed on.
        measure: Times runners against each other; replaced in tests.
        on_progress: Told the name of each mode that is being worked on.

    Returns:
        One mode per candidate, in their order.

    Raises:
        GraphError: A graph's output is constant, which no restored image is.
    """
    outputs: list[list[np.ndarray]] = []
    for candidate in candidates:
        on_progress(f"{candidate.name}: quality on {len(samples)} images")
        outputs.append(_restore_all(candidate, samples))
    timed = {one.name: one.runner for one in candidates if one.timed}
    on_progress(f"latency: {', '.join(timed)}")
    latencies = _latencies(timed, timing_frame, measure)
    modes = []
    for candidate, output in zip(candidates, outputs, strict=True):
        figures = compare_outputs(output, outputs[0], samples, latencies.get(candidate.name))
        accepted, reason = decide(candidate.precision, figures, max_drop_db)
        modes.append(
            Configuration(
                name=candidate.name,
                backend=candidate.backend,
                precision=candidate.precision,
                graph=candidate.graph,
                against_fp32=figures.against_fp32,
                against_truth=figures.against_truth,
                truth_drop_db=figures.drop_db if figures.against_truth else None,
                latency=figures.latency,
                accepted=accepted,
                reason=reason,
            )
        )
    return modes


def compare_outputs(
    outputs: Sequence[np.ndarray],
    fp32_outputs: Sequence[np.ndarray],
    samples: Sequence[CalibrationSample],
    latency: LatencyFacts | None,
) -> GateResult:
    """Return the figures of one mode from what it and fp32 made of the same images.

    Args:
        outputs: One (1, H, W, 3) uint8 array per sample.
        fp32_outputs: The same, by fp32.
        samples: Names and references.
        latency: The mode's time, where measured.
    """
    names = [sample.name for sample in samples]
    against_fp32 = [_psnr(one, two) for one, two in zip(outputs, fp32_outputs, strict=True)]
    known = [place for place, sample in enumerate(samples) if sample.reference is not None]
    if not known:
        loss = estimated_loss_db(_mean(against_fp32))
        return GateResult(_quality(against_fp32, names), None, loss, latency)
    references = {place: _reference(samples[place]) for place in known}
    mode_db = [_psnr(outputs[place], references[place]) for place in known]
    fp32_db = [_psnr(fp32_outputs[place], references[place]) for place in known]
    return GateResult(
        _quality(against_fp32, names),
        _quality(mode_db, [names[place] for place in known]),
        _mean(fp32_db) - _mean(mode_db),
        latency,
    )


def decide(precision: Precision, figures: GateResult, max_drop_db: float) -> tuple[bool, str]:
    """Say whether a mode is accepted, and why, in numbers."""
    if precision == "fp32":
        return True, "the reference precision"
    loss = f"{figures.drop_db:.3f} dB lost (limit {max_drop_db:g})"
    if not figures.drop_db <= max_drop_db:  # written so that NaN is refused
        return False, f"rejected: {loss}"
    if figures.latency is None:
        return True, f"accepted on quality alone: {loss}; latency not measured"
    time = f"{figures.latency.ratio_to_fp32:.2f}x the time of fp32"
    if figures.latency.ratio_to_fp32 > FASTER_AT_MOST:
        return False, f"rejected: not faster here: {time} (limit {FASTER_AT_MOST:g}); {loss}"
    return True, f"accepted: {time}; {loss}"


def fastest(modes: Sequence[Configuration]) -> Configuration:
    """Return the accepted mode with the smallest median time.

    Raises:
        ValueError: No mode was timed; there is always fp32 on a CPU backend.
    """
    return min(
        (mode for mode in modes if mode.accepted and mode.latency is not None),
        key=lambda mode: mode.latency.p50_ms if mode.latency else math.inf,
    )


def estimated_loss_db(against_fp32_db: float) -> float:
    """Return what an error of this PSNR against fp32 costs an image, where no reference exists.

    Independent errors add up in the mean square: 10 log10(1 + e_mode / e_fp32), with e_fp32 that
    of `ASSUMED_TRUTH_DB`.
    """
    if math.isinf(against_fp32_db):
        return 0.0
    return 10.0 * math.log10(1.0 + 10.0 ** ((ASSUMED_TRUTH_DB - against_fp32_db) / 10.0))


def _restore_all(
    candidate: GateCandidate, samples: Sequence[CalibrationSample]
) -> list[np.ndarray]:
    with candidate.runner as runner:
        outputs = [runner.run(sample.frame[None]) for sample in samples]
    if samples and all(output.min() == output.max() for output in outputs):
        # what NaN and overflow look like once they are 8 bits
        raise GraphError(
            f"{candidate.name} gives constant images; expected restored ones. Its graph "
            f"{candidate.graph} is broken: export without this precision and report it"
        )
    return outputs


def _latencies(
    runners: Mapping[str, Runner], frame: Frames, measure: Measure
) -> dict[str, LatencyFacts]:
    samples = measure(runners, frame)
    latencies = {}
    for name, values in samples.items():
        reference = samples[f"{name.partition(':')[0]}:fp32"]
        # round by round: both saw the same moment of a noisy machine
        ratios = [one / two for one, two in zip(values, reference, strict=True)]
        latencies[name] = LatencyFacts(
            p50_ms=percentile(values, 50.0),
            p95_ms=percentile(values, 95.0),
            ratio_to_fp32=percentile(ratios, 50.0),
            height=frame.shape[1],
            width=frame.shape[2],
            runs=len(values),
            samples_ms=[round(value, 4) for value in values],
        )
    return latencies


def _reference(sample: CalibrationSample) -> np.ndarray:
    if sample.reference is None:
        raise ValueError(f"{sample.name} has no reference")
    return sample.reference[None]


def _psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(psnr(one, two)[0])


def _mean(values: Sequence[float]) -> float:
    """Return the mean PSNR; identical images count as 100 dB beside others, or it is infinite."""
    if all(math.isinf(value) for value in values):
        return math.inf
    return sum(min(value, 100.0) for value in values) / len(values)


def _quality(values: Sequence[float], names: Sequence[str]) -> QualityFacts:
    worst = min(range(len(values)), key=lambda place: values[place])
    return QualityFacts(
        mean_db=_finite(_mean(values)),
        worst_db=_finite(values[worst]),
        worst_image=names[worst],
    )


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else round(value, 4)
