"""The quality gate's decisions, from given accuracy and latency: nothing here measures time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mirnet_edge.calibration.sets import CalibrationSample
from mirnet_edge.errors import EngineError, GraphError
from mirnet_edge.export.gate import (
    GateCandidate,
    GateResult,
    compare_outputs,
    decide,
    describe_acceptance,
    describe_rejection,
    estimate_drop_db,
    find_fastest,
    is_undecided,
    run_gate,
)
from mirnet_edge.manifest import (
    Configuration,
    LatencyFacts,
    QualityFacts,
    Rejection,
    RejectionReason,
)
from mirnet_edge.testing.null_runner import NullRunner

QUALITY, SPEED = RejectionReason.QUALITY, RejectionReason.SPEED
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
    reason: RejectionReason | None
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Case("faster and within", 0.05, 0.5, None, "accepted: 2.00x speedup; accuracy drop 0.050"),
        Case("better than fp32", -0.02, 0.6, None, "accuracy drop -0.020 dB"),
        Case("on the tolerance", 0.1, 0.6, None, "(tolerance 0.1 dB)"),
        Case("too inaccurate", 0.11, 0.2, QUALITY, "drop 0.110 dB (tolerance 0.1 dB)"),
        Case("too inaccurate, slower", 0.11, 2.0, QUALITY, "drop 0.110 dB (tolerance 0.1 dB)"),
        Case("not a number", math.nan, 0.2, QUALITY, "accuracy drop not a number"),
        Case(
            "slower", 0.0, 1.25, SPEED, "not faster here: 0.80x speedup (expected at least 1.03x)"
        ),
        Case("on the least speedup", 0.0, 0.97, None, "1.03x speedup"),
        Case("within the noise", 0.0, 0.99, SPEED, "not faster here: 1.01x"),
        Case("not timed", 0.05, None, None, "latency not measured"),
        Case("not timed, too inaccurate", 0.5, None, QUALITY, "rejected: accuracy drop 0.500 dB"),
    ],
    ids=lambda case: case.id,
)
def test_decisions(case):
    latency = None if case.ratio is None else _latency(case.ratio)
    result = GateResult(_QUALITY, _QUALITY, case.drop_db, latency)
    rejection = decide("int8", result, 0.1)
    if case.reason is None:
        assert rejection is None
        assert case.says in describe_acceptance("int8", result, 0.1)
        return
    assert rejection.reason is case.reason
    assert rejection.tolerance_db == 0.1
    assert rejection.drop_db == (None if math.isnan(case.drop_db) else case.drop_db)
    assert rejection.speedup == (None if case.ratio is None else 1 / case.ratio)
    text = describe_rejection(rejection)
    assert text.startswith("rejected: ")
    assert case.says in text


def test_fp32_is_accepted_whatever_its_speed_and_rejected_where_it_computes_something_else():
    result = GateResult(_QUALITY, None, 0.0, _latency(2.0))
    assert decide("fp32", result, 0.1) is None
    other = replace(result, drop_db=9.0)
    assert decide("fp32", other, 0.1).reason is RejectionReason.QUALITY
    assert describe_acceptance("fp32", result, 0.1) == "the reference precision"


def test_a_rejection_is_described_by_its_reason_and_what_was_measured():
    drop = {"drop_db": 0.2, "minimum_speedup": 1.03}
    by_quality = Rejection(reason=QUALITY, tolerance_db=0.1, speedup=2.0, **drop)
    assert describe_rejection(by_quality) == "rejected: accuracy drop 0.200 dB (tolerance 0.1 dB)"
    for reason in (QUALITY, SPEED):
        untimed = Rejection(reason=reason, tolerance_db=None, speedup=None, **drop)
        assert describe_rejection(untimed) == "rejected: accuracy drop 0.200 dB"


def test_a_drop_that_is_estimated_is_called_so():
    accepted = GateResult(_QUALITY, None, 0.05, _latency(0.5))
    says = describe_acceptance("int8", accepted, 0.1)
    assert "estimated accuracy drop 0.050 dB (tolerance 0.1 dB; no reference: assumes" in says
    rejection = decide("int8", GateResult(_QUALITY, None, 0.2, _latency(0.5)), 0.1)
    assert rejection.drop_is_estimated
    assert "estimated accuracy drop 0.200 dB" in describe_rejection(rejection)
    measured = decide("int8", GateResult(_QUALITY, _QUALITY, 0.2, _latency(0.5)), 0.1)
    assert not measured.drop_is_estimated
    assert "estimated" not in describe_rejection(measured)


def test_the_estimate_without_references_follows_independent_errors():
    assert estimate_drop_db(math.inf) == 0.0
    assert estimate_drop_db(30.0) == pytest.approx(10 * math.log10(2))
    rng = np.random.default_rng(0)
    truth = np.zeros(200_000)
    fp32 = truth + rng.normal(0, 10 ** (-30 / 20), truth.shape)
    one = fp32 + rng.normal(0, 10 ** (-40 / 20), truth.shape)
    drop = 10 * math.log10(np.mean(one**2) / np.mean(fp32**2))
    assert estimate_drop_db(40.0) == pytest.approx(drop, abs=0.02)


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


def test_accuracy_is_against_the_truth_and_latency_round_by_round():
    found = run_gate(
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
    by_name = {one.name: one for one in found}
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
    assert find_fastest(found).name == "openvino:fp32"


def test_a_device_without_fp32_is_timed_against_the_reference():
    times = {"onnxruntime:fp32": [20.0], "openvino-npu:fp16": [5.0]}
    failed = replace(_candidate("openvino:fp32", 9), runner=NullRunner(failure=EngineError("no")))
    candidates = [
        _candidate("onnxruntime:fp32", 9), _candidate("openvino-npu:fp16", 9), failed,
        _candidate("openvino:int8", 9),  # has nothing to be compared with
    ]  # fmt: skip
    _, npu, _, int8 = run_gate(
        candidates, _samples(), max_drop_db=0.1, timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed(times),
    )  # fmt: skip
    assert npu.latency.ratio_to_fp32 == 0.25
    assert int8.latency is None


def test_without_references_the_accuracy_drop_is_estimated_from_fp32():
    found = run_gate(
        [_candidate("onnxruntime:fp32", 0), _candidate("onnxruntime:int8", 3)],
        _samples(reference=False),
        max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed({"onnxruntime:fp32": [2.0], "onnxruntime:int8": [1.0]}),
    )
    against = -20 * math.log10(3 / 255)
    assert found[1].against_truth is None
    assert found[1].truth_drop_db is None
    assert found[1].against_fp32.mean_db == pytest.approx(against, abs=1e-3)
    assert f"estimated accuracy drop {estimate_drop_db(against):.3f} dB" in found[1].reason
    assert found[1].estimated_drop_db == pytest.approx(estimate_drop_db(against), abs=1e-4)
    assert found[0].estimated_drop_db is None  # fp32 has no drop


def test_the_worst_image_is_named():
    samples = _samples()
    samples[2] = CalibrationSample("night", samples[2].frame, samples[2].frame + np.uint8(60))
    found = run_gate(
        [_candidate("onnxruntime:fp32", 9)],
        samples,
        max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed({"onnxruntime:fp32": [1.0], "tensorrt:fp16": [0.5]}),
    )
    assert found[0].against_truth.worst_image == "night"


def test_latency_is_the_percentiles_and_the_size_of_the_timing_frame():
    frame = np.zeros((1, 8, 12, 3), np.uint8)
    fp32, int8 = [10.0, 20.0, 50.0], [8.0, 1.23456, 5.0]

    def measure(runners, timed):
        assert timed is frame
        assert list(runners) == ["onnxruntime:fp32", "onnxruntime:int8"]
        return {"onnxruntime:fp32": fp32, "onnxruntime:int8": int8}

    names = ("onnxruntime:fp32", "onnxruntime:int8")
    candidates = [_candidate(name, 9) for name in names]
    _, found = run_gate(
        candidates, _samples(), max_drop_db=0.1, timing_frame=frame, measure=measure
    )
    assert found.latency.p50_ms == 5.0
    assert found.latency.p95_ms == pytest.approx(5.0 + 0.9 * 3.0)
    # the ratios are 0.8, 0.06 and 0.1
    assert found.latency.ratio_to_fp32 == 0.1
    assert (found.latency.height, found.latency.width) == (8, 12)
    assert found.latency.runs == 3
    assert found.latency.samples_ms == [8.0, 1.2346, 5.0]


def test_only_timed_candidates_are_measured_and_progress_names_each():
    messages = []
    accepted = "accepted on quality alone: accuracy drop 0.000 dB (tolerance 0.1 dB)"
    found = run_gate(
        [
            _candidate("onnxruntime:fp32", 9),
            _candidate("onnxruntime:bf16", 9, timed=False),
            _candidate("onnxruntime:int8", 8),
        ],
        _samples(),
        max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed({"onnxruntime:fp32": [2.0], "onnxruntime:int8": [1.0]}),
        on_stage=messages.append,
    )
    assert messages == [
        "onnxruntime:fp32: restore 4 images",
        "onnxruntime:bf16: quality on 4 images",
        "onnxruntime:int8: quality on 4 images",
        "latency: onnxruntime:fp32, onnxruntime:int8",
    ]
    assert [one.latency is None for one in found] == [False, True, False]
    # fp32 is 1 level from the reference, int8 is 2: 6.021 dB
    assert [one.reason for one in found] == [
        "the reference precision",
        f"{accepted}; latency not measured",
        "rejected: accuracy drop 6.021 dB (tolerance 0.1 dB); seen on the first 2 of 4 images, the "
        "others were spared",
    ]
    assert [one.rejection and one.rejection.reason for one in found] == [None, None, QUALITY]


@pytest.mark.parametrize("reference", [True, False])
def test_accuracy_is_reported_against_fp32_and_the_reference(reference):
    samples, latency = _samples(2, reference), _latency(0.5)
    fp32 = [sample.frame[None] for sample in samples]
    same_and_off = [fp32[0], fp32[1] + np.uint8(3)]
    found = compare_outputs(same_and_off, fp32, samples, latency)
    assert found.latency is latency
    off = round(20 * math.log10(255 / 3), 4)  # 38.5884 dB
    # the identical image counts as 100 dB
    assert found.against_fp32.mean_db == pytest.approx((100 + off) / 2, abs=1e-4)
    assert found.against_fp32.worst_db == off
    assert found.against_fp32.worst_image == "1"
    if not reference:
        assert found.against_truth is None
        return
    # the reference is 10 levels brighter: 10 off and 7 off
    ten, seven = (20 * math.log10(255 / levels) for levels in (10, 7))
    assert found.against_truth.worst_db == round(ten, 4)
    assert found.against_truth.mean_db == pytest.approx((ten + seven) / 2, abs=1e-4)
    assert found.drop_db == pytest.approx((ten - seven) / 2)


def test_missing_outputs_are_refused():
    samples = _samples(2)
    fp32 = [sample.frame[None] for sample in samples]
    with pytest.raises(ValueError, match="longer"):
        compare_outputs(fp32[:1], fp32, samples, None)


class _Black(NullRunner):
    """What a graph full of NaN gives once it is 8 bits."""

    def run(self, frames):
        return np.zeros_like(super().run(frames))


def test_constant_output_is_an_error_that_names_the_configuration():
    broken = GateCandidate("onnxruntime", "int8", "int8-cpu", _Black(), timed=True)
    with pytest.raises(GraphError, match=r"onnxruntime:int8 gives constant images.*int8-cpu"):
        run_gate(
            [_candidate("onnxruntime:fp32", 0), broken],
            _samples(),
            max_drop_db=0.1,
            timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
            measure=_timed({}),
        )


def _run_unsupported(names):
    """Return the configurations where OpenVINO cannot run its graphs."""
    broken = NullRunner(failure=EngineError("no kernel for Resize"))
    candidates = [_candidate(name, 1) for name in names]
    return run_gate(
        [replace(one, runner=broken) if one.backend == "openvino" else one for one in candidates],
        _samples(),
        max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8),
        measure=_timed({"onnxruntime:fp32": [1.0], "tensorrt:fp16": [0.5]}),
    )


def test_a_graph_that_a_backend_cannot_run_is_rejected_as_unsupported():
    names = ["onnxruntime:fp32", "openvino:bf16", "tensorrt:fp16"]
    _, found, after = _run_unsupported(names)
    assert after.accepted
    assert not found.accepted
    assert found.rejection.reason is RejectionReason.UNSUPPORTED
    assert found.reason == "rejected: not supported here: no kernel for Resize"
    assert found.against_fp32 is found.latency is None
    assert Configuration.model_validate_json(found.model_dump_json()) == found


def test_the_reference_must_run():
    with pytest.raises(EngineError, match="no kernel"):
        _run_unsupported(["openvino:fp32", "onnxruntime:fp32"])


def test_a_configuration_of_schema_1_is_read_with_its_text_alone():
    document = {
        "name": "openvino:int8", "backend": "openvino", "precision": "int8", "graph": "int8-cpu",
        "against_fp32": None, "against_truth": None, "truth_drop_db": None, "latency": None,
        "adopted": False, "reason": "rejected: not faster here: 1.40x the time of fp32",
    }  # fmt: skip
    found = Configuration.model_validate(document)
    assert found.rejection is None
    assert not found.accepted
    assert found.reason == document["reason"]


class _Counting(_Shifted):
    """Counts its runs; from the third frame on it is brighter by more."""

    def __init__(self, levels, later=None):
        super().__init__(levels)
        self.runs = 0
        self.later = later

    def run(self, frames):
        self.runs += 1
        if self.runs == 3 and self.later is not None:
            self.levels = self.later
        return super().run(frames)


@pytest.mark.parametrize(
    ("name", "runner", "runs", "drop_db"),
    [
        # the reference is 1 level off the truth
        ("openvino:fp32", _Counting(9), 2, 0.0),
        ("openvino:fp32", _Counting(8), 4, 20 * math.log10(2)),
        ("openvino:int8", _Counting(9), 4, 0.0),
        ("openvino:int8", _Counting(5), 2, 20 * math.log10(5)),
        ("openvino:int8", _Counting(9, later=8), 4, 10 * math.log10(2)),
    ],
    ids=["fp32 again", "another fp32", "equal", "hopeless", "worse later"],
)
def test_images_that_decide_nothing_are_spared(name, runner, runs, drop_db):
    backend, _, precision = name.partition(":")
    candidate = GateCandidate(backend, precision, "graph", runner, timed=False)
    first = _candidate("onnxruntime:fp32", 9)
    fp32, found = run_gate(
        [first, candidate], _samples(), max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8), measure=lambda runners, frame: {
            one: [1.0] for one in runners
        },
    )  # fmt: skip
    assert runner.runs == runs
    assert found.truth_drop_db == pytest.approx(drop_db, abs=1e-6)
    if name == "openvino:fp32" and runs == 2:
        assert found.against_truth == fp32.against_truth


def test_only_what_is_near_the_least_speedup_is_undecided():
    samples = {
        "a:fp32": [10.0, 10.0, 10.0], "a:int8": [9.5, 9.9, 9.0], "a:bf16": [5.0, 5.0, 9.0],
        "a:fp16": [20.0, 20.0],
    }  # fmt: skip
    compared_with = dict.fromkeys(samples, "a:fp32")
    found = [is_undecided(compared_with, name, samples) for name in samples]
    assert found == [False, True, False, False]


def test_what_a_former_run_measured_is_not_measured_again():
    made = []

    def recall(name, kind, make, files=()):
        made.append(name)
        if name == "latency":
            return {one: [2.0] for one in ("onnxruntime:fp32", "onnxruntime:int8")}
        return make()

    candidates = [_candidate("onnxruntime:fp32", 9), _candidate("onnxruntime:int8", 9)]
    samples = _samples()
    expected = [sample.frame[None] + np.uint8(9) for sample in samples]
    found = run_gate(
        candidates, samples, expected, max_drop_db=0.1,
        timing_frame=np.zeros((1, 8, 8, 3), np.uint8), recall=recall,
    )  # fmt: skip
    assert made == ["quality of onnxruntime:int8", "latency"]
    assert [one.latency.p50_ms for one in found] == [2.0, 2.0]
