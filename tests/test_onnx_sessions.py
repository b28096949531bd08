"""A graph that fails in a kernel runs with less optimization; other errors stay what they are."""

from __future__ import annotations

import logging

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from mirnet_edge.errors import EngineError
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

ALL, EXTENDED, BASIC = "ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC"


@pytest.fixture
def failing(monkeypatch):
    """Let runs at some levels fail: failing([ALL]); returns the levels of all runs, in order."""
    real = onnxruntime.InferenceSession

    def install(levels, *, kind=Fail, on=lambda feed: True):
        ran = []

        class Failing(real):
            def __init__(self, model, options, **rest):
                self.level = options.graph_optimization_level.name
                super().__init__(model, options, **rest)

            def run(self, outputs, feed):
                ran.append(self.level)
                if self.level in levels and on(feed):
                    raise kind(f"a kernel\nfailed at {self.level}")
                return super().run(outputs, feed)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Failing)
        return ran

    return install


@pytest.fixture
def runner(make_graph, tmp_path):
    path = make_graph(tmp_path / "plain.onnx", io="uint8")
    image = ImageContract(io="uint8", size=None, multiple=16, scale=1)

    def make(**options):
        return OnnxRuntimeRunner(path, image, name="onnxruntime:fp32", precision="fp32", **options)

    return make


@pytest.mark.parametrize(("levels", "kept"), [([ALL], EXTENDED), ([ALL, EXTENDED], BASIC)])
def test_the_next_level_that_runs_is_kept_and_told_once(
    levels, kept, failing, runner, frames_of, caplog
):
    with runner() as usual:
        expected = usual.run(frames_of(16, 16))
    ran = failing(levels)
    with caplog.at_level(logging.WARNING), runner() as one:
        np.testing.assert_array_equal(one.run(frames_of(16, 16)), expected)
        assert ran == [*levels, kept]
        one.run(frames_of(16, 16))
        one.run(frames_of(32, 16))
        assert ran == [*levels, kept, kept, kept]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "plain.onnx: expected it to run as ONNX Runtime optimizes it at ORT_ENABLE_ALL, found: a "
        f"kernel failed at ORT_ENABLE_ALL; it runs at {kept} from now on, which may be slower"
    )


def test_what_no_level_runs_is_told_as_it_was_found_and_tried_once(
    failing, runner, frames_of, caplog
):
    ran = failing([ALL, EXTENDED, BASIC])
    told = "could not run it on a 16x16 frame: a kernel failed at ORT_ENABLE_ALL"
    with runner() as one:
        for tries in ([ALL, EXTENDED, BASIC], [ALL]):
            ran.clear()
            with pytest.raises(EngineError, match=told):
                one.run(frames_of(16, 16))
            assert ran == tries
    assert not caplog.records


def test_a_size_that_ran_before_is_not_tried_again(failing, runner, frames_of):
    broken = []
    ran = failing([ALL], on=lambda feed: broken)
    with runner() as one:
        one.run(frames_of(16, 16))
        broken.append("out of memory")
        with pytest.raises(EngineError, match="kernel failed"):
            one.run(frames_of(16, 16))
        assert ran == [ALL, ALL]
        one.run(frames_of(32, 16))
        assert ran[2:] == [ALL, EXTENDED]


@pytest.mark.parametrize("options", [{}, {"optimize": False}], ids=["feed", "as written"])
def test_other_errors_and_graphs_run_as_written_are_not_tried_again(
    options, failing, runner, frames_of
):
    ran = failing([ALL, "ORT_DISABLE_ALL"], kind=Fail if options else InvalidArgument)
    with runner(**options) as one, pytest.raises(EngineError, match="kernel failed"):
        one.run(frames_of(16, 16))
    assert len(ran) == 1
