"""Accept or reject each precision on each backend, by accuracy drop and latency (quality gate).

A configuration is a graph as one backend runs it. Each is compared with fp32, image by image, and
timed against fp32 on the same backend in interleaved runs.

What decides nothing is not measured: fp32 of a second backend, which computes what the first did,
is compared on two images; a configuration that is hopeless on the first ones is rejected on them;
and one that is far slower than another is timed in fewer rounds.

`decide` is a pure function of those
figures: it is read, and tested, without measuring anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mirnet_edge.errors import EngineError, GraphError
from mirnet_edge.export.stages import OnStep, Recall, make_anew
from mirnet_edge.manifest import (
    BackendName,
    Configuration,
    LatencyFacts,
    Precision,
    QualityFacts,
    Rejection,
    RejectionReason,
    StrictDocument,
)
from mirnet_edge.metrics import ASSUMED_TRUTH_DB, estimate_drop_db, psnr
from mirnet_edge.runtime.measure import measure_contest, percentile

if TYPE_CHECKING:
    import numpy as np

    from mirnet_edge.calibration.sets import CalibrationSample
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner

# Less than this over fp32 is not worth a second set of numbers: two runs of one graph differ by as
# much.
MINIMUM_SPEEDUP = 1.0 / 0.97
# fp32 of another backend, on the first images: nearer to the reference than this, a fifth of an
# 8-bit level, its distance from the ground truth is the same to 0.01 dB up to 40 dB.
SAME_DB = 60.0
_FEWEST_IMAGES = 2
# A drop of so many times the tolerance and so many dB on the first images is not made up for by
# the others.
HOPELESS_DROPS, HOPELESS_DB = 10.0, 1.0

Measure = Callable[[Mapping[str, "Runner"], "Frames"], Mapping[str, list[float]]]


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
    images: int | None = None
    """How many images it was compared with fp32 on; None for all."""

    @property
    def is_estimated(self) -> bool:
        """Whether the accuracy drop is an estimate."""
        return self.against_truth is None


class _Accuracy(StrictDocument):
    """Accuracy of one configuration on the evaluation images."""

    unsupported: str | None = None
    """What the backend answered, where it cannot run the graph."""
    against_fp32: QualityFacts | None = None
    against_truth: QualityFacts | None = None
    drop_db: float = math.nan
    images: int = 0
    """How many images it was compared with fp32 on."""

    @classmethod
    def of(cls, found: GateResult, images: int) -> _Accuracy:
        """Return the accuracy of a result."""
        return cls(
            against_fp32=found.against_fp32,
            against_truth=found.against_truth,
            drop_db=found.drop_db,
            images=images,
        )

    def with_latency(self, latency: LatencyFacts | None) -> GateResult:
        """Return the result of a configuration that its backend runs."""
        if self.against_fp32 is None:
            raise ValueError(f"there is no accuracy: {self.unsupported}")
        return GateResult(self.against_fp32, self.against_truth, self.drop_db, latency, self.images)


def measure_latency(
    runners: Mapping[str, Runner],
    frame: Frames,
    *,
    compared_with: Mapping[str, str],
    on_step: OnStep,
    budget_s: float = math.inf,
) -> dict[str, list[float]]:
    """Return milliseconds per round of the configurations that are still in question."""
    return measure_contest(
        runners,
        frame,
        is_undecided=partial(is_undecided, compared_with),
        budget_s=budget_s,
        on_round=on_step,
    )


def run_gate(
    candidates: Sequence[GateCandidate],
    samples: Sequence[CalibrationSample],
    expected: Sequence[np.ndarray] | None = None,
    *,
    max_drop_db: float,
    timing_frame: Frames,
    measure: Measure | None = None,
    timing_s: float = math.inf,
    recall: Recall = make_anew,
    on_stage: Callable[[str], None] = lambda what: None,
    on_step: OnStep = lambda done, total: None,
) -> list[Configuration]:
    """Measure every candidate and return each as an accepted or rejected configuration.

    Args:
        candidates: The first one is the reference: fp32 on a backend that is installed.
        samples: The evaluation images.
        expected: The reference's outputs for them; None to restore them here.
        max_drop_db: The largest accuracy drop that is accepted.
        timing_frame: (1, H, W, 3) uint8, the frame that candidates are timed on.
        measure: Times runners against each other; None for `measure_latency`.
        timing_s: Seconds that the timed rounds may take.
        recall: Returns what an earlier run measured.
        on_stage: Called with the name of each configuration as its measurement begins.
        on_step: Called with the images or rounds done, and those of all.

    Returns:
        One configuration per candidate, in their order.

    Raises:
        EngineError: The reference cannot be run.
        GraphError: A graph's output is constant, which no restored image is.
    """
    reference = candidates[0]
    if expected is None:
        on_stage(f"{reference.name}: restore {len(samples)} images")
        expected = restore_all(reference, samples, on_step)
    against_itself = compare_outputs(expected, expected, samples, None)
    results = {reference.name: _Accuracy.of(against_itself, len(samples))}
    for candidate in candidates[1:]:
        on_stage(f"{candidate.name}: quality on {len(samples)} images")
        measure_accuracy = partial(
            _measure_accuracy, candidate, samples, expected, results[reference.name],
            max_drop_db=max_drop_db, on_step=on_step,
        )  # fmt: skip
        stage = f"quality of {candidate.name}"
        results[candidate.name] = recall(stage, _Accuracy, measure_accuracy)
    # a latency is a ratio to fp32 of the same backend, or to the reference where that has no fp32;
    # where fp32 failed there is none
    fp32 = {one.backend: one.name for one in candidates if one.precision == "fp32"}
    compared_with = {
        one.name: fp32.get(one.backend, reference.name) for one in candidates if one.timed
    }
    timed = {
        one.name: one.runner
        for one in candidates
        if one.timed
        and results[one.name].unsupported is None
        and results[compared_with[one.name]].unsupported is None
    }
    measure = measure or partial(
        measure_latency, compared_with=compared_with, on_step=on_step, budget_s=timing_s
    )
    on_stage(f"latency: {', '.join(timed)}")
    samples_ms = recall(
        "latency", dict[str, list[float]], lambda: dict(measure(timed, timing_frame))
    )
    latencies = _latencies(samples_ms, compared_with, timing_frame)
    configurations = []
    for one in candidates:
        accuracy = results[one.name]
        if accuracy.unsupported is not None:
            configurations.append(_unsupported_configuration(one, accuracy.unsupported))
            continue
        result = accuracy.with_latency(latencies.get(one.name))
        configurations.append(_measured_configuration(one, result, max_drop_db, len(samples)))
    return configurations


def _measured_configuration(
    candidate: GateCandidate, result: GateResult, max_drop_db: float, images: int
) -> Configuration:
    rejection = decide(candidate.precision, result, max_drop_db)
    reason = (
        describe_acceptance(candidate.precision, result, max_drop_db)
        if rejection is None
        else describe_rejection(rejection)
    )
    if rejection is not None and result.images is not None and result.images < images:
        reason += f"; seen on the first {result.images} of {images} images, the others were spared"
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
        reason=reason,
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


def _measure_accuracy(
    candidate: GateCandidate,
    samples: Sequence[CalibrationSample],
    expected: Sequence[np.ndarray],
    reference: _Accuracy,
    *,
    max_drop_db: float,
    on_step: OnStep,
) -> _Accuracy:
    """Return the accuracy of a candidate, or why its backend cannot run it.

    Args:
        candidate: The candidate.
        samples: The evaluation images.
        expected: The reference's outputs for them.
        reference: The reference's accuracy.
        max_drop_db: The largest accuracy drop that is accepted.
        on_step: Called with the images done and those of all.
    """
    outputs: list[np.ndarray] = []
    try:
        with candidate.runner as runner:
            for sample in samples:
                outputs.append(runner.run(sample.frame[None]))
                seen = len(outputs)
                on_step(seen, len(samples))
                if seen not in (_FEWEST_IMAGES, len(samples)):
                    continue
                found = compare_outputs(outputs, expected[:seen], samples[:seen], None)
                if candidate.precision == "fp32":
                    # one backend's fp32 is another's: what was measured on all images holds
                    if _is_same(found):
                        return reference.model_copy(
                            update={"against_fp32": found.against_fp32, "images": seen}
                        )
                elif found.drop_db > HOPELESS_DROPS * max_drop_db + HOPELESS_DB:
                    break
    except EngineError as error:
        return _Accuracy(unsupported=str(error))
    _check_not_constant(candidate, outputs)
    return _Accuracy.of(found, len(outputs))


def _is_same(found: GateResult) -> bool:
    worst_db = found.against_fp32.worst_db
    return worst_db is None or worst_db >= SAME_DB


def restore_all(
    candidate: GateCandidate,
    samples: Sequence[CalibrationSample],
    on_step: OnStep = lambda done, total: None,
) -> list[np.ndarray]:
    """Return a candidate's outputs for the evaluation images, (1, H, W, 3) uint8 each.

    Raises:
        EngineError: It cannot be run.
        GraphError: The outputs are constant, which no restored image is.
    """
    outputs = []
    with candidate.runner as runner:
        for sample in samples:
            outputs.append(runner.run(sample.frame[None]))
            on_step(len(outputs), len(samples))
    _check_not_constant(candidate, outputs)
    return outputs


def _check_not_constant(candidate: GateCandidate, outputs: Sequence[np.ndarray]) -> None:
    if outputs and all(output.min() == output.max() for output in outputs):
        # what NaN and overflow look like once they are 8 bits
        raise GraphError(
            f"{candidate.name} gives constant images; expected restored ones. Its graph "
            f"{candidate.graph} is broken: export without this precision and report it"
        )


def is_undecided(
    compared_with: Mapping[str, str], name: str, samples: Mapping[str, Sequence[float]]
) -> bool:
    """Return whether a configuration's speedup over fp32 may yet fall on either side of the least.

    Args:
        compared_with: The name of the fp32 that each configuration is compared with.
        name: `backend:precision`.
        samples: Milliseconds of each round by name.
    """
    if name == compared_with[name]:
        return False
    ratios = _ratios(samples[name], samples[compared_with[name]])
    return min(ratios) * MINIMUM_SPEEDUP < 1.0 < max(ratios) * MINIMUM_SPEEDUP


def _ratios(values: Sequence[float], fp32: Sequence[float]) -> list[float]:
    """Return latencies over those of fp32, of the rounds in which both were timed."""
    # round by round: both were timed at the same moment of a noisy machine
    return [one / two for one, two in zip(values, fp32, strict=False)]


def _latencies(
    samples: Mapping[str, Sequence[float]], compared_with: Mapping[str, str], frame: Frames
) -> dict[str, LatencyFacts]:
    return {
        name: LatencyFacts(
            p50_ms=percentile(values, 50.0),
            p95_ms=percentile(values, 95.0),
            ratio_to_fp32=percentile(_ratios(values, samples[compared_with[name]]), 50.0),
            height=frame.shape[1],
            width=frame.shape[2],
            runs=len(values),
            samples_ms=[round(value, 4) for value in values],
        )
        for name, values in samples.items()
    }


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
