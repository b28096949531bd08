"""Frames of more than 8 bits: a runner rounds neither before nor after the network."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.errors import EngineError, ImageError, OptionError
from mirnet_edge.manifest import ContextVector, ImageContract
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.openvino_runner import OpenVinoRunner
from mirnet_edge.runtime.runner import GraphRunner, as_float_runner
from mirnet_edge.runtime.tiling import tile_runner
from mirnet_edge.runtime.torch_runner import TorchRunner
from mirnet_edge.testing.null_runner import NullRunner

_KINDS = [OnnxRuntimeRunner, OpenVinoRunner]


def _floats(height, width, count=1):
    rng = np.random.default_rng([height, width])
    return rng.random((count, height, width, 3), np.float32)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("io", ["uint8", "float"])
@pytest.mark.parametrize("scale", [1, 2])
def test_floats_are_restored_to_a_thousandth_of_a_level(kind, io, scale, tmp_path, make_graph):
    path = make_graph(tmp_path / "a.onnx", io=io, scale=scale)
    image = ImageContract(io=io, multiple=8, size=None, scale=scale)
    frames = _floats(21, 35, 2)
    with kind(path, image, name="x:fp32", precision="fp32") as runner:
        restored = as_float_runner(runner).run_float(frames)
    bright = np.minimum(1.5 * frames, 1).repeat(scale, 1).repeat(scale, 2)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, bright, atol=4e-6)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("size", [None, (32, 48)], ids=str)
def test_8_bits_stay_what_they_were_beside_floats(kind, size, graph_of, frames_of):
    image = ImageContract(io="uint8", multiple=4, size=size)
    frames = frames_of(32, 48)
    with kind(graph_of("edge", size=size), image, name="x:fp32", precision="fp32") as runner:
        before = runner.run(frames)
        floats = runner.run_float((frames / 255).astype(np.float32))
        after = runner.run(frames)
    np.testing.assert_array_equal(before, after)
    assert np.abs(255 * floats - before).max() < 0.502  # what the graph rounds away, and no more
    assert len(np.unique(floats)) > 3 * 256


@pytest.mark.parametrize("io", ["uint8", "float"])
def test_torch_gives_floats_too(io, tmp_path, network_of, frames_of):
    from mirnet_edge import checkpoints

    checkpoints.save(network_of("edge"), tmp_path / "a.safetensors", checkpoints.ModelCard())
    image = ImageContract(io=io, multiple=16, size=None)
    frames = frames_of(24, 40)
    with TorchRunner(
        tmp_path / "a.safetensors", image, name="torch:fp32", precision="fp32"
    ) as runner:
        expected = runner.run(frames)
        found = runner.run_float((frames / 255).astype(np.float32))
    assert np.abs(255 * found - expected).max() < 0.502


def test_tiles_of_floats_are_blended_without_rounding():
    frames = _floats(75, 130)
    with tile_runner(NullRunner(multiple=8, scale=2), tile=(32, 40), overlap=8) as runner:
        restored = as_float_runner(runner).run_float(frames)
    np.testing.assert_allclose(restored, frames.repeat(2, 1).repeat(2, 2), atol=1e-6)


class _ContextRunner(NullRunner):
    """Records the context vectors of each run of floats."""

    context_length = 2
    image = ImageContract(
        io="uint8", multiple=8, size=None, vectors=(ContextVector(name="mean", size=2),), reach=4
    )

    def __init__(self):
        super().__init__(multiple=8)
        self.contexts = []

    def run_with_context(self, frames, context_in, smoothing_weight):
        del context_in, smoothing_weight
        return self.run(frames), np.full((1, 2), frames.mean(), np.float32)

    def run_float(self, frames, context_in=None):
        self.contexts.append(context_in)
        return super().run_float(frames)


@pytest.mark.parametrize("context", [None, np.full((1, 2), 7, np.float32)])
def test_all_tiles_of_floats_have_the_context_of_the_frame(context):
    inner = _ContextRunner()
    with tile_runner(inner, tile=(32, 32)) as runner:
        runner.run_float(_floats(64, 64), context)
    assert len(inner.contexts) > 4
    expected = 7.0 if context is not None else 127.5
    np.testing.assert_allclose(np.concatenate(inner.contexts), expected, atol=2)


def test_runners_of_8_bits_alone_say_so(tmp_path):
    class EightBits(GraphRunner):
        def _load(self):
            pass

        def _infer(self, inputs):
            return inputs

        def _close(self):
            pass

    image = ImageContract(io="uint8", multiple=1, size=None)
    runner = EightBits(tmp_path, image, name="eight:fp16", precision="fp16")
    assert as_float_runner(runner) is None
    assert as_float_runner(tile_runner(runner, tile=(8, 8))) is None
    with runner, pytest.raises(EngineError, match="eight:fp16 gives 8 bits alone"):
        runner.run_float(_floats(4, 4))
    with tile_runner(runner, tile=(8, 8)) as tiled, pytest.raises(EngineError, match="8 bits"):
        tiled.run_float(_floats(4, 4))


def test_what_is_no_float_frame_is_refused(frames_of):
    with NullRunner() as runner:
        with pytest.raises(ImageError, match=r"float32 in \[0, 1\], found uint8"):
            runner.run_float(frames_of(4, 4))
        with pytest.raises(ImageError, match="4 axes"):
            runner.run_float(_floats(4, 4)[0])
    with pytest.raises(EngineError, match="not open"):
        runner.run_float(_floats(4, 4))


def test_context_that_does_not_fit_is_refused(tmp_path, make_graph):
    image = ImageContract(io="uint8", multiple=8, size=None)
    path = make_graph(tmp_path / "a.onnx")
    runner = OnnxRuntimeRunner(path, image, name="x:fp32", precision="fp32")
    with runner, pytest.raises(OptionError, match="shape"):
        runner.run_float(_floats(8, 8), np.zeros((1, 3), np.float32))
