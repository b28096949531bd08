"""What every backend does alike, on a graph that is a function of numpy."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirnet_edge.errors import BundleError, EngineError, ImageError, OptionError
from mirnet_edge.images.contract import padded_size
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime.runner import GraphRunner
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.runtime.tiling import tile_runner
from mirnet_edge.testing.null_runner import NullRunner


class _Numpy(GraphRunner):
    """Runs a function of numpy in place of a graph, and writes down what happens."""

    def __init__(self, path, image, *, function=np.copy, broken_by=None, **options):
        super().__init__(path, image, name="numpy:fp32", precision="fp32", **options)
        self._function = function
        self.broken_by = broken_by
        self.fed = []
        self.events = []

    def _load(self):
        self.events.append("load")
        if self.broken_by is not None:
            raise self.broken_by

    def _close(self):
        self.events.append("close")

    def _infer(self, fed):
        self.fed.append(fed)
        return self._function(fed)


@pytest.fixture
def make_runner(tmp_path):
    def make(*, io="uint8", multiple=4, size=None, scale=1, **options):
        image = ImageContract(io=io, multiple=multiple, size=size, scale=scale)
        return _Numpy(tmp_path / "fp32.onnx", image, **options)

    return make


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from(["uint8", "float"]),
)
def test_a_graph_that_changes_nothing_gives_every_frame_back(height, width, multiple, count, io):
    generator = np.random.default_rng([height, width, multiple, count])
    frames = generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    frames = frames[:, :, ::-1]  # not contiguous, as a mirrored camera's are
    frames.flags.writeable = False
    runner = _Numpy("fp32.onnx", ImageContract(io=io, multiple=multiple, size=None))
    with runner:
        restored = runner.run(frames)
    np.testing.assert_array_equal(restored, frames)
    assert restored.dtype == np.uint8
    assert restored.flags.owndata
    for fed in runner.fed:
        assert fed.flags.c_contiguous
        tall, wide = fed.shape[1:3] if io == "uint8" else fed.shape[2:]
        assert tall % multiple == wide % multiple == 0


def _repeated(io, scale):
    """Return what repeats every pixel of what a graph is fed."""
    down, across = (1, 2) if io == "uint8" else (2, 3)
    return lambda fed: fed.repeat(scale, down).repeat(scale, across)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from(["uint8", "float"]),
)
def test_what_a_graph_enlarges_is_cropped_at_its_own_size(height, width, multiple, scale, io):
    generator = np.random.default_rng([height, width, multiple, scale])
    frames = generator.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    image = ImageContract(io=io, multiple=multiple, size=None, scale=scale)
    runner = _Numpy("fp32.onnx", image, function=_repeated(io, scale))
    assert runner.scale == scale
    with runner:
        restored = runner.run(frames)
    np.testing.assert_array_equal(restored, frames.repeat(scale, 1).repeat(scale, 2))
    assert restored.flags.owndata
    for fed in runner.fed:  # what goes in is padded to the multiple, not to its scale
        tall, wide = fed.shape[1:3] if io == "uint8" else fed.shape[2:]
        assert (tall, wide) == padded_size(height, width, multiple)


@dataclass(frozen=True)
class Fed:
    io: str
    shape: tuple[int, ...]
    dtype: type
    largest: float


@pytest.mark.parametrize(
    "case",
    [Fed("uint8", (1, 8, 12, 3), np.uint8, 255), Fed("float", (1, 3, 8, 12), np.float32, 1.0)],
    ids=lambda case: case.io,
)
def test_a_graph_is_fed_what_its_contract_says_one_frame_at_a_time(case, make_runner):
    frames = np.full((2, 7, 9, 3), 255, np.uint8)
    with make_runner(io=case.io) as runner:
        runner.run(frames)
    assert len(runner.fed) == 2
    for fed in runner.fed:
        assert fed.shape == case.shape
        assert fed.dtype == case.dtype
        assert fed.min() == fed.max() == case.largest


def test_what_is_added_at_the_border_is_cut_off_again(make_runner):
    def with_dark_rim(fed):
        darkened = fed.copy()
        darkened[:, 5:] = darkened[:, :, 6:] = 0
        return darkened

    frames = np.full((1, 5, 6, 3), 200, np.uint8)
    with make_runner(multiple=8, function=with_dark_rim) as runner:
        np.testing.assert_array_equal(runner.run(frames), frames)


def test_the_result_survives_a_backend_that_uses_its_memory_again(make_runner):
    memory = np.empty((1, 4, 4, 3), np.uint8)

    def into_memory(fed):
        memory[:] = fed
        return memory

    with make_runner(function=into_memory) as runner:
        first = runner.run(np.full((1, 4, 4, 3), 1, np.uint8))
        second = runner.run(np.full((1, 4, 4, 3), 2, np.uint8))
    assert (first == 1).all()
    assert (second == 2).all()
    assert not np.shares_memory(second, memory)


def test_it_is_loaded_once_and_closed_by_the_last_exit(make_runner):
    runner = make_runner()
    assert runner.events == []
    with runner as outer:
        assert outer is runner
        with runner:
            pass
        assert runner.events == ["load"]
        runner.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert runner.events == ["load", "close"]
    with runner:
        pass
    assert runner.events == ["load", "close", "load", "close"]


def test_it_is_closed_when_the_block_fails(make_runner):
    runner = make_runner()
    with pytest.raises(KeyboardInterrupt), runner:
        raise KeyboardInterrupt
    assert runner.events == ["load", "close"]


@pytest.mark.parametrize("opened_before", [False, True])
def test_outside_with_it_says_what_is_missing(opened_before, make_runner):
    runner = make_runner()
    if opened_before:
        with runner:
            pass
    says = r"numpy:fp32 is not open: expected `with runner:` .*Enter it first"
    with pytest.raises(EngineError, match=says):
        runner.run(np.zeros((1, 4, 4, 3), np.uint8))


@dataclass(frozen=True)
class Failure:
    id: str
    error: Exception
    says: str


_FAILURES = [
    Failure("one line", ValueError("no such node"), "no such node. Try another --backend, or"),
    Failure("many lines", RuntimeError("first\n  second\tthird"), "first second third. Try"),
    Failure("no words", MemoryError(), "MemoryError. Try another --backend"),
    Failure("a book", ValueError("x" * 5000), ": " + "x" * 300 + ". Try"),
]


@pytest.mark.parametrize("case", _FAILURES, ids=lambda case: case.id)
def test_a_backend_that_cannot_open_the_file_is_one_line(case, make_runner):
    runner = make_runner(broken_by=case.error)
    with pytest.raises(EngineError) as raised, runner:
        pass
    message = str(raised.value)
    assert message.startswith("fp32.onnx: numpy:fp32 could not open it: ")
    assert case.says in message
    assert message.endswith("export the bundle again")
    assert raised.value.__cause__ is case.error
    assert runner.events == ["load", "close"]
    with pytest.raises(EngineError, match="is not open"):
        runner.run(np.zeros((1, 4, 4, 3), np.uint8))


@pytest.mark.parametrize("case", _FAILURES, ids=lambda case: case.id)
def test_a_backend_that_cannot_run_is_one_line_with_the_size(case, make_runner):
    def fail(fed):
        raise case.error

    with make_runner(function=fail) as runner, pytest.raises(EngineError) as raised:
        runner.run(np.zeros((1, 4, 7, 3), np.uint8))
    message = str(raised.value)
    assert message.startswith("fp32.onnx: numpy:fp32 could not run it on a 8x4 frame: ")
    assert case.says in message
    assert raised.value.__cause__ is case.error


def test_our_own_errors_pass_unchanged(make_runner):
    own = BundleError("in the user's words already")

    def fail(fed):
        raise own

    with pytest.raises(BundleError) as raised, make_runner(broken_by=own):
        pass
    assert raised.value is own
    with make_runner(function=fail) as runner, pytest.raises(BundleError) as raised:
        runner.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert raised.value is own


def test_a_file_that_cannot_be_opened_can_be_tried_again(make_runner):
    runner = make_runner(broken_by=OSError("busy"))
    with pytest.raises(EngineError, match="busy"), runner:
        pass
    runner.broken_by = None
    with runner:
        runner.run(np.zeros((1, 4, 4, 3), np.uint8))


def test_an_output_of_another_shape_is_refused(make_runner):
    with make_runner(function=lambda fed: fed[:, ::2]) as runner:
        says = r"fp32\.onnx gave an output of shape \(1, 2, 4, 3\), expected \(1, 4, 4, 3\); export"
        with pytest.raises(EngineError, match=says):
            runner.run(np.zeros((1, 4, 4, 3), np.uint8))


@dataclass(frozen=True)
class Misfit:
    """A graph that enlarges by another factor than its contract says."""

    io: str
    stated: int
    real: int
    says: str

    @property
    def id(self):
        return f"{self.io}, {self.real} for {self.stated}"


@pytest.mark.parametrize(
    "case",
    [
        Misfit("uint8", 2, 1, "(1, 4, 8, 3), expected (1, 8, 16, 3)"),
        Misfit("uint8", 1, 2, "(1, 8, 16, 3), expected (1, 4, 8, 3)"),
        Misfit("uint8", 2, 3, "(1, 12, 24, 3), expected (1, 8, 16, 3)"),
        Misfit("float", 2, 1, "(1, 3, 4, 8), expected (1, 3, 8, 16)"),
        Misfit("float", 1, 2, "(1, 3, 8, 16), expected (1, 3, 4, 8)"),
    ],
    ids=lambda case: case.id,
)
def test_an_output_of_another_scale_is_refused_with_both_shapes(case, make_runner):
    options = {"io": case.io, "scale": case.stated, "function": _repeated(case.io, case.real)}
    says = f"fp32.onnx gave an output of shape {case.says}; export the bundle again"
    with make_runner(**options) as runner, pytest.raises(EngineError, match=re.escape(says)):
        runner.run(np.zeros((1, 3, 7, 3), np.uint8))


@pytest.mark.parametrize("size", [(7, 12), (8, 11), (5, 9), (8, 12)])
def test_a_fixed_size_takes_frames_that_pad_to_it(size, make_runner, frames_of):
    frames = frames_of(*size)
    with make_runner(size=(8, 12)) as runner:
        np.testing.assert_array_equal(runner.run(frames), frames)


@pytest.mark.parametrize("size", [(4, 12), (9, 12), (8, 13), (12, 8)])
def test_a_fixed_size_refuses_all_others_before_the_backend_sees_them(size, make_runner, frames_of):
    height, width = size
    says = (
        rf"frame is {width}x{height}; \S+ was exported for 12x8: export again with "
        f"--size {width}x{height}, or with --dynamic for ONNX graphs of any size"
    )
    with make_runner(size=(8, 12)) as runner, pytest.raises(ImageError, match=says):
        runner.run(frames_of(height, width))
    assert runner.fed == []


@pytest.mark.parametrize("runner", [None, NullRunner()], ids=["graph", "null"])
def test_what_is_no_frames_is_refused(runner, make_runner):
    with runner or make_runner() as opened:
        with pytest.raises(ImageError, match=r"4 axes.*found 3; give frame\[None\]"):
            opened.run(np.zeros((4, 4, 3), np.uint8))
        with pytest.raises(ImageError, match="uint8 from 0 to 255, found float32"):
            opened.run(np.zeros((1, 4, 4, 3), np.float32))


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(threads, make_runner):
    says = f"--threads must be at least 1, found {threads}; leave it out for all"
    with pytest.raises(OptionError, match=says):
        make_runner(threads=threads)
    assert make_runner(threads=1).threads == 1
    assert make_runner().threads is None


# the fake


def test_the_null_runner_gives_a_copy_back(frames_of):
    frames = frames_of(3, 5, 2)
    with NullRunner() as runner:
        copied = runner.run(frames)
    np.testing.assert_array_equal(copied, frames)
    assert not np.shares_memory(copied, frames)


@pytest.mark.parametrize("size", [(1, 1), (5, 7)], ids=str)
def test_the_null_runner_repeats_pixels_where_it_is_to_enlarge(size, frames_of):
    frames = frames_of(*size, 2)
    assert NullRunner().scale == 1
    with NullRunner(scale=3) as runner:
        enlarged = runner.run(frames)
    assert runner.scale == 3
    for down in range(3):
        for across in range(3):
            np.testing.assert_array_equal(enlarged[:, down::3, across::3], frames)


def test_the_null_runner_tells_what_was_done_with_it(frames_of):
    runner = NullRunner("fake:int8", multiple=16)
    assert (runner.name, runner.multiple) == ("fake:int8", 16)
    assert not runner.is_open
    with runner, runner:
        assert runner.is_open
        runner.run(frames_of(2, 2))
    assert (runner.opened, runner.calls, runner.is_open) == (1, 1, False)
    with pytest.raises(EngineError, match="fake:int8 is not open"):
        runner.run(frames_of(2, 2))
    assert runner.calls == 1


def test_the_null_runner_fails_from_the_call_it_was_told(frames_of):
    with NullRunner(failure=OSError("gone"), fails_at=3) as runner:
        runner.run(frames_of(2, 2))
        runner.run(frames_of(2, 2))
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                runner.run(frames_of(2, 2))


def test_the_null_runner_takes_its_time(monkeypatch, frames_of):
    waited = []
    monkeypatch.setattr("mirnet_edge.testing.null_runner.time.sleep", waited.append)
    with NullRunner(delay_s=0.25) as runner:
        runner.run(frames_of(2, 2))
    assert waited == [0.25]


@pytest.mark.parametrize("wrap", [tile_runner, smooth_over_time])
def test_a_runner_around_another_has_its_name_and_sizes_and_is_open_with_it(wrap):
    inner = NullRunner("inner", multiple=4, scale=2)
    outer = wrap(inner)
    assert (outer.name, outer.multiple, outer.scale) == ("inner", 4, 2)
    with outer as entered:
        assert entered is outer
        assert inner.is_open
    assert not inner.is_open
