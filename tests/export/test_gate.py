"""The gate's verdicts, from figures alone: nothing here measures time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from mirnet_edge.calibration.sets import CalibrationSample
from mirnet_edge.errors import GraphError
from mirnet_edge.export.gate import (
    GateCandidate,
    GateResult,
    decide,
    estimated_loss_db,
    fastest,
    run_gate,
)
from mirnet_edge.manifest import LatencyFacts, QualityFacts
from mirnet_edge.testing.null_runner import NullRunner

_QUALITY = QualityFacts(mean_db=45.0, worst_db=40.0, worst_image="a")


def _latency(ratio):
    return LatencyFacts(
        p50_ms=10 * ratio, p95_ms=11 * ratio, ratio_to_fp32=ratio, height=8, width=8, runs=1,
        samples_ms=[10 * ratio],
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    id: str
    drop_db: float
    ratio: float | None
    accepted: bool
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Case("faster and within", 0.05, 0.6, True, "0.60x the time of fp32; 0.050 dB lost"),
        Case("better than fp32", -0.02, 0.6, True, "-0.020 dB"),
        Case("on the limit", 0.1, 0.6, True, "limit 0.1"),
        Case("too lossy", 0.11, 0.2, False, "rejected: 0.110 dB lost (limit 0.1)"),
        Case("not a number", math.nan, 0.2, False, "rejected"),
        Case("slower", 0.0, 1.4, False, "not faster here: 1.40x"),
        Case("within the noise", 0.0, 0.99, False, "not faster here: 0.99x"),
        Case("not timed", 0.05, None, True, "latency not measured"),
        Case("not timed, too lossy", 0.5, None, False, "rejected: 0.500 dB"),
    ],
    ids=lambda case: case.id,
)
def test_verdicts(case):
    latency = None if case.ratio is None else _latency(case.ratio)
    figures = GateResult(_QUALITY, _QUALITY, case.drop_db, latency)
    accepted, reason = decide("int8", figures, 0.1)
    assert accepted is case.accepted
    assert case.says in reason


def test_fp32_is_always_adopted():
    assert decide("fp32", GateResult(_QUALITY, None, 9.0, _latency(2.0)), 0.1)[0]


def test_the_estimate_without_references_follows_independent_errors():
    assert estimated_loss_db(math.inf) == 0.0
    assert estimated_loss_db(30.0) == pytest.approx(10 * math.log10(2))
    rng = np.random.default_rng(0)
    truth = np.zeros(200_000)
    fp32 = truth + rng.normal(0, 10 ** (-30 / 20), truth.shape)
    mode = fp32 + rng.normal(0, 10 ** (-40 / 20), truth.shape)
    lost = 10 * math.log10(np.mean(mode**2) / np.mean(fp32**2))
    assert estimated_loss_db(40.0) == pytest.approx(lost, abs=0.02)


class _Shifted(NullRunner):
    """Gives its input back, brighter by some levels."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def run(self, frames):
        return (super().run(frames).astype(int) + self.levels).clip(0, 255).astype(np.uint8)


def _samples(count=4, reference=True):
    rng = np.random.default_rng(0)
    frames = [rng.integers(30, 200, (16, 16, 3), dtype=np.uint8) for _ in range(count)]
    return [
        CalibrationSample(str(index), frame, frame + np.uint8(10) if reference else None)
        for index, frame in enumerate(frames)
    ]


def _timed(times):
    def measure(runners, frame):
        assert frame.shape == (1, 8, 8, 3)
        return {name: times[name] for name in runners}

    return measure


def _candidate(name, levels, timed=True):
    backend, _, precision = name.partition(":")
    return GateCandidate(backend, precision, f"graph-{precision}", _Shifted(levels), timed)


def test_modes_are_judged_against_the_truth_and_timed_round_by_round():
    modes = run_gate(
        [
            _candidate("onnxruntime:fp32", 9),
            _candidate("onnxruntime:int8", 10),
            _candidate("openvino:fp32", 9),
            _candidate("openvino:int8", 3),
            _candidate("tensorrt:int8", 9, timed=False),
        ],
        _samples(),
        max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed(
            {
                # the machine was three times slower in the second round, for both
                "onnxruntime:fp32": [10.0, 30.0, 10.0],
                "onnxruntime:int8": [5.0, 15.0, 5.0],
                "openvino:fp32": [4.0, 4.0, 4.0],
                "openvino:int8": [1.0, 1.0, 1.0],
            }
        ),
    )
    by_name = {mode.name: mode for mode in modes}
    better = by_name["onnxruntime:int8"]
    assert better.accepted
    assert better.latency.ratio_to_fp32 == 0.5
    assert better.against_truth.mean_db is None  # identical to the reference
    assert better.truth_drop_db < 0
    worse = by_name["openvino:int8"]
    assert not worse.accepted
    # 1 level from the truth against 7 levels: 20 log10(7) dB
    assert worse.truth_drop_db == pytest.approx(20 * math.log10(7), abs=1e-6)
    assert by_name["tensorrt:int8"].latency is None
    assert by_name["tensorrt:int8"].accepted
    assert fastest(modes).name == "openvino:fp32"


def test_without_references_the_loss_is_estimated_from_fp32():
    modes = run_gate(
        [_candidate("onnxruntime:fp32", 0), _candidate("onnxruntime:int8", 3)],
        _samples(reference=False),
        max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed({"onnxruntime:fp32": [2.0], "onnxruntime:int8": [1.0]}),
    )
    against = -20 * math.log10(3 / 255)
    assert modes[1].against_truth is None
    assert modes[1].against_fp32.mean_db == pytest.approx(against, abs=1e-3)
    assert f"{estimated_loss_db(against):.3f} dB" in modes[1].reason


def test_the_worst_image_is_named():
    samples = _samples()
    samples[2] = CalibrationSample("night", samples[2].frame, samples[2].frame + np.uint8(60))
    modes = run_gate(
        [_candidate("onnxruntime:fp32", 9)],
        samples,
        max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed({"onnxruntime:fp32": [1.0]}),
    )
    assert modes[0].against_truth.worst_image == "night"


class _Black(NullRunner):
    """What a graph full of NaN gives once it is 8 bits."""

    def run(self, frames):
        return np.zeros_like(super().run(frames))


def test_constant_output_is_an_error_that_names_the_mode():
    broken = GateCandidate("onnxruntime", "int8", "int8-cpu", _Black(), timed=True)
    with pytest.raises(GraphError, match=r"onnxruntime:int8 gives constant images.*int8-cpu"):
        run_gate(
            [_candidate("onnxruntime:fp32", 0), broken],
            _samples(),
            max_drop_db=0.1,
            timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
            measure=_timed({}),
        )
