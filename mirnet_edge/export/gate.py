"""Accept or reject each precision on each backend, by accuracy drop and latency (quality gate).

A configuration is a graph as one backend runs it. Each is compared with fp32, image by image, and
timed against fp32 on the same backend in interleaved runs. `decide` is a pure function of those
figures: it is read, and tested, without measuring anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import EngineError, GraphError
from mirnet_edge.manifest import (
    BackendName,
    Configuration,
    LatencyFacts,
    Precision,
    QualityFacts,
    Rejection,
    RejectionReason,
)
from mirnet_edge.metrics import ASSUMED_TRUTH_DB, estimate_drop_db, psnr
from mirnet_edge.runtime.measure import measure_interleaved, percentile

if TYPE_CHECKING:
    import numpy as np

    from mirnet_edge.calibration.sets import CalibrationSample
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner

# Less than this over fp32 is not worth a second set of numbers: two runs of one graph differ by as
# much.
MINIMUM_SPEEDUP = 1.0 / 0.97

Measure = Callable[[Mapping[str, "Runner"], "Frames"], dict[str, list[float]]]


@dataclass(frozen=True)
class GateCandidate:
    """A configuration to measure, with the runner that stands for it."""

    backend: BackendName
    precision: Precision
    graph: str
    runner: Runner
    """Runs the graph; where the backend is not installed, ONNX Runtime does, unoptimized."""
    timed: bool
    """Whether `runner` is the backend itself, so that its latency is valid."""

    @property
    def name(self) -> str:
        """Return `backend:precision`."""
        return f"{self.backend}:{self.precision}"


@dataclass(frozen=True)
class GateResult:
    """Accuracy and latency of one configuration."""

    against_fp32: QualityFacts
    against_truth: QualityFacts | None
    drop_db: float
    """Accuracy drop against fp32: of the mean PSNR against the references, or estimated from the
    mean PSNR against fp32 where there are none."""
    latency: LatencyFacts | None

    @property
    def is_estimated(self) -> bool:
        """Whether the accuracy drop is an estimate."""
        return self.against_truth is None


def run_gate(
    candidates: Sequence[GateCandidate],
    samples: Sequence[CalibrationSample],
    *,
    max_drop_db: float,
    timing_frame: Frames,
    measure: Measure = measure_interleaved,
    on_progress: Callable[[str], None] = lambda what: None,
) -> list[Configuration]:
    """Measure every candidate and return each as an accepted or rejected configuration.

    Args:
        candidates: The first one is the reference: fp32 on a backend that is installed.
        samples: The evaluation images.
        max_drop_db: The largest accuracy drop that is accepted.
        timing_frame: (1, H, W, 3) uint8, the frame that candidates are timed on.
        measure: Times runners against each other; replaced in tests.
        on_progress: Called with the name of each configuration as its measurement begins.

    Returns:
        One configuration per candidate, in their order.

    Raises:
        EngineError: The reference cannot be run.
        GraphError: A graph's output is constant, which no restored image is.
    """
    outputs: dict[str, list[np.ndarray]] = {}
    unsupported: dict[str, str] = {}
    for candidate in candidates:
        on_progress(f"{candidate.name}: quality on {len(samples)} images")
        try:
            outputs[candidate.name] = _restore_all(candidate, samples)
        except EngineError as error:
            if candidate is candidates[0]:
                raise
            unsupported[candidate.name] = str(error)
    # a latency is a ratio to fp32 of the same backend, or to the reference where that has no fp32;
    # where fp32 failed there is none
    fp32 = {one.backend: one.name for one in candidates if one.precision == "fp32"}
    compared_with = {
        one.name: fp32.get(one.backend, candidates[0].name) for one in candidates if one.timed
    }
    timed = {
        one.name: one.runner
        for one in candidates
        if one.timed and one.name in outputs and compared_with[one.name] in outputs
    }
    on_progress(f"latency: {', '.join(timed)}")
    latencies = _latencies(timed, compared_with, timing_frame, measure)
    expected = outputs[candidates[0].name]
    configurations = []
    for one in candidates:
        if one.name in unsupported:
            configurations.append(_unsupported_configuration(one, unsupported[one.name]))
            continue
        result = compare_outputs(outputs[one.name], expected, samples, latencies.get(one.name))
        configurations.append(_measured_configuration(one, result, max_drop_db))
    return configurations


def _measured_configuration(
    candidate: GateCandidate, result: GateResult, max_drop_db: float
) -> Configuration:
    rejection = decide(candidate.precision, result, max_drop_db)
    return Configuration(
        name=candidate.name,
        backend=candidate.backend,
        precision=candidate.precision,
        graph=candidate.graph,
        against_fp32=result.against_fp32,
        against_truth=result.against_truth,
        truth_drop_db=None if result.is_estimated else result.drop_db,
        estimated_drop_db=_estimate_of(candidate.precision, result),
        latency=result.latency,
        accepted=rejection is None,
        reason=(
            describe_acceptance(candidate.precision, result, max_drop_db)
            if rejection is None
            else describe_rejection(rejection)
        ),
        rejection=rejection,
    )


def _estimate_of(precision: Precision, result: GateResult) -> float | None:
    measurable = result.is_estimated and precision != "fp32" and math.isfinite(result.drop_db)
    return result.drop_db if measurable else None


def _unsupported_configuration(candidate: GateCandidate, message: str) -> Configuration:
    rejection = Rejection(reason=RejectionReason.UNSUPPORTED, message=message)
    return Configuration(
        name=candidate.name,
        backend=candidate.backend,
        precision=candidate.precision,
        graph=candidate.graph,
        against_fp32=None,
        against_truth=None,
        truth_drop_db=None,
        latency=None,
        accepted=False,
        reason=describe_rejection(rejection),
        rejection=rejection,
    )


def compare_outputs(
    outputs: Sequence[np.ndarray],
    fp32_outputs: Sequence[np.ndarray],
    samples: Sequence[CalibrationSample],
    latency: LatencyFacts | None,
) -> GateResult:
    """Return accuracy and latency of one configuration, from its outputs and those of fp32.

    Args:
        outputs: One (1, H, W, 3) uint8 array per sample.
        fp32_outputs: The same, by fp32.
        samples: Names and references.
        latency: The configuration's latency, where measured.
    """
    names = [sample.name for sample in samples]
    against_fp32 = [_psnr(one, two) for one, two in zip(outputs, fp32_outputs, strict=True)]
    known = [place for place, sample in enumerate(samples) if sample.reference is not None]
    if not known:
        drop = estimate_drop_db(_mean(against_fp32))
        return GateResult(_quality(against_fp32, names), None, drop, latency)
    references = {place: _reference(samples[place]) for place in known}
    own_db = [_psnr(outputs[place], references[place]) for place in known]
    fp32_db = [_psnr(fp32_outputs[place], references[place]) for place in known]
    return GateResult(
        _quality(against_fp32, names),
        _quality(own_db, [names[place] for place in known]),
        _mean(fp32_db) - _mean(own_db),
        latency,
    )


def decide(precision: Precision, result: GateResult, max_drop_db: float) -> Rejection | None:
    """Return why a configuration is rejected, in numbers, or None where it is accepted.

    fp32 is what the others of its backend are timed against, so its speed rejects nothing; that
    of a backend that computes something else than the reference is rejected for its accuracy.
    """
    speedup = None if result.latency is None else 1.0 / result.latency.ratio_to_fp32
    reason = None
    if not result.drop_db <= max_drop_db:  # written so that NaN is rejected
        reason = RejectionReason.QUALITY
    elif precision != "fp32" and speedup is not None and speedup < MINIMUM_SPEEDUP:
        reason = RejectionReason.SPEED
    if reason is None:
        return None
    return Rejection(
        reason=reason,
        drop_db=result.drop_db if math.isfinite(result.drop_db) else None,
        drop_is_estimated=result.is_estimated,
        tolerance_db=max_drop_db,
        speedup=speedup,
        minimum_speedup=MINIMUM_SPEEDUP,
    )


def describe_rejection(rejection: Rejection) -> str:
    """Return a rejection as one line of text."""
    if rejection.reason is RejectionReason.UNSUPPORTED:
        return f"rejected: not supported here: {rejection.message}"
    drop = _describe_drop(rejection.drop_db, rejection.tolerance_db, rejection.drop_is_estimated)
    if rejection.reason is RejectionReason.QUALITY or rejection.speedup is None:
        return f"rejected: {drop}"
    return (
        f"rejected: not faster here: {rejection.speedup:.2f}x speedup (expected at least "
        f"{rejection.minimum_speedup:.2f}x); {drop}"
    )


def describe_acceptance(precision: Precision, result: GateResult, max_drop_db: float) -> str:
    """Return why a configuration is accepted as one line of text."""
    if precision == "fp32":
        return "the reference precision"
    drop = _describe_drop(result.drop_db, max_drop_db, result.is_estimated)
    if result.latency is None:
        return f"accepted on quality alone: {drop}; latency not measured"
    return f"accepted: {1.0 / result.latency.ratio_to_fp32:.2f}x speedup; {drop}"


def _describe_drop(drop_db: float | None, tolerance_db: float | None, estimated: bool) -> str:
    what = "estimated accuracy drop" if estimated else "accuracy drop"
    drop = "not a number" if drop_db is None else f"{drop_db:.3f} dB"
    known = [] if tolerance_db is None else [f"tolerance {tolerance_db:g} dB"]
    if estimated:
        known.append(
            f"no reference: assumes that fp32 is {ASSUMED_TRUTH_DB:g} dB from the ground truth"
        )
    return f"{what} {drop} ({'; '.join(known)})" if known else f"{what} {drop}"


def find_fastest(configurations: Sequence[Configuration]) -> Configuration:
    """Return the accepted configuration with the smallest median latency.

    Raises:
        ValueError: None was timed; there is always fp32 on a CPU backend.
    """
    return min(
        (one for one in configurations if one.accepted and one.latency is not None),
        key=lambda one: one.latency.p50_ms if one.latency else math.inf,
    )


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
    runners: Mapping[str, Runner],
    compared_with: Mapping[str, str],
    frame: Frames,
    measure: Measure,
) -> dict[str, LatencyFacts]:
    samples = measure(runners, frame)
    latencies = {}
    for name, values in samples.items():
        reference = samples[compared_with[name]]
        # round by round: both were timed at the same moment of a noisy machine
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
