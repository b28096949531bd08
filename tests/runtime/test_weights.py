"""Weights without a bundle: whole frames and tiles, the plan, and the memory it predicts."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.errors import CheckpointError, EngineError, OptionError
from mirnet_edge.models.inference_form import FrameInterface
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config
from mirnet_edge.runtime import weights as weights_module
from mirnet_edge.runtime.bundle import RunnerChoice
from mirnet_edge.runtime.tiling import TileAxis
from mirnet_edge.runtime.weights import as_weights_runner, open_weights


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory, network_of):
    """Return the file of a small network: weights_of("mirnet")."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name):
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            checkpoints.save(network_of(name), path, ModelCard())
        return str(path)

    return make


class _Observer:
    def __init__(self):
        self.plans, self.steps = [], []

    def on_plan(self, plan):
        self.plans.append(plan)

    def on_pixels(self, done, total):
        self.steps.append((done, total))


@pytest.mark.parametrize("name", ["mirnet", "mirnet-v2", "keras-mirnet", "enlarging"])
def test_weights_restore_as_their_network_does(name, weights_of, network_of, smooth_frames):
    frames = smooth_frames(32, 48)
    with torch.inference_mode():
        expected = FrameInterface(network_of(name), "uint8")(torch.from_numpy(frames)).numpy()
    with open_weights(weights_of(name)) as runner:
        restored = runner.run(frames)
    assert np.abs(restored.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["mirnet", "keras-mirnet"])
def test_a_compiled_network_is_one_graph_channels_last_and_restores_alike(
    name, weights_of, smooth_frames, monkeypatch
):
    graphs = []

    def backend(graph, inputs):
        assert [one.shape for one in inputs if one.dtype == torch.uint8]
        graphs.append(graph)
        return graph

    compile_with = functools.partial(torch.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(
        torch, "compile", lambda network, *, mode, dynamic: compile_with(network, dynamic=dynamic)
    )
    frames, other = smooth_frames(32, 48), smooth_frames(48, 32)
    with (
        open_weights(weights_of(name)) as plain,
        open_weights(weights_of(name), compiled=True) as compiled,
    ):
        for size in (frames, frames, other):
            assert np.array_equal(compiled.run(size), plain.run(size))
        kernels = [
            one for one in compiled._network.interface.parameters() if one.dim() == 4
        ]  # channels last
    assert len(graphs) == 2  # one for each size
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in kernels)


@pytest.mark.parametrize(("device", "mode"), [("cpu", None), ("cuda", "reduce-overhead")])
def test_a_gpu_computes_a_compiled_network_in_a_cuda_graph(device, mode, weights_of, monkeypatch):
    asked = {}
    monkeypatch.setattr(torch, "compile", lambda network, **how: asked.update(how) or network)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *place, **form: self)
    with open_weights(weights_of("mirnet"), compiled=True) as runner:
        assert runner._network.precision == ("fp16" if device == "cuda" else "fp32")
    assert asked == {"mode": mode, "dynamic": False}


def test_tiles_equal_the_whole_frame_and_are_announced(weights_of, smooth_frames):
    frames = smooth_frames(90, 142)
    with open_weights(weights_of("mirnet")) as runner:
        whole = runner.run(frames)
        levels = runner.run_float(frames / np.float32(255))
        needed = runner.bytes_per_pixel
    observer = _Observer()
    with open_weights(weights_of("mirnet")) as runner:
        runner._limit_bytes = lambda: int(needed * 64 * 64)
        runner.observer = observer
        tiled = runner.run(frames)
        tiled_levels = runner.run_float(frames / np.float32(255))
    plan = observer.plans[0]
    assert plan.size == (90, 142)
    assert max(plan.tile) <= 64
    assert plan.tiles > 4
    # as small as that many tiles can be
    across = len(TileAxis.of(142, plan.tile[1], plan.overlap, 2).origins)
    assert len(TileAxis.of(142, plan.tile[1] - 2, plan.overlap, 2).origins) > across
    assert plan.pass_bytes == pytest.approx(needed * np.prod(plan.tile), abs=1)
    assert observer.steps[-1] == (plan.pixels, plan.pixels)
    assert [done for done, _ in observer.steps] == sorted(
        done for done, _ in observer.steps[: len(observer.steps) // 2]
    ) * 2
    assert np.abs(tiled.astype(int) - whole).max() <= 2
    assert np.abs(tiled_levels - levels).max() < 2 / 255


def test_a_tile_that_is_asked_for_is_taken(weights_of, smooth_frames):
    observer = _Observer()
    with open_weights(weights_of("mirnet"), tile=(62, 300)) as runner:
        runner.observer = observer
        runner.run(smooth_frames(92, 100))
    (plan,) = observer.plans
    assert plan.tile == (62, 100)
    assert plan.tiles == 2
    assert "in 2 tiles of 100x62, overlap" in plan.describe()


def test_a_limit_too_small_for_the_overlap_states_one_that_suffices(weights_of, smooth_frames):
    frames = smooth_frames(92, 144)
    with open_weights(weights_of("mirnet")) as runner:
        runner._limit_bytes = lambda: 12_000
        with pytest.raises(OptionError, match=r"expected at least .* Give --max-memory \d+"):
            runner.run(frames)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend": "openvino"}, "weights run in torch, found --backend openvino"),
        ({"precision": "int8"}, "mirnet export --weights .* --int8"),
        ({"tile": (64, 64), "max_memory_mib": 9}, "--tile WxH and --max-memory exclude each other"),
    ],
)
def test_what_weights_cannot_do_is_refused(options, says, weights_of):
    with pytest.raises(OptionError, match=says):
        open_weights(weights_of("mirnet"), **options)


def test_a_network_of_two_views_is_refused(tmp_path):
    network = MIRNetV2(
        MIRNetV2Config(
            channels=8, groups=1, blocks=1, conv_groups=(1,), in_channels=6,
            task="defocus_deblurring",
        )
    )  # fmt: skip
    path = tmp_path / "defocus.safetensors"
    checkpoints.save(network, path, ModelCard())
    with pytest.raises(CheckpointError, match="images of 6 channels"):
        open_weights(str(path))


def test_a_gpu_is_used_in_half_precision(monkeypatch, weights_of):
    """Not run there: this machine may have none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    runner = open_weights(weights_of("mirnet"))
    assert runner.name == "torch:fp16"
    assert runner._network.device == "cuda"
    assert open_weights(weights_of("mirnet"), precision="fp32").name == "torch:fp32"


def test_a_choice_of_weights_blends_and_has_a_fingerprint_of_its_own(weights_of, smooth_frames):
    choice = RunnerChoice(weights=weights_of("mirnet"), strength=0.5)
    runner = choice.runner()
    assert as_weights_runner(runner) is runner.runner
    with pytest.raises(EngineError, match="open"):
        runner.run(smooth_frames(8, 8))
    assert (
        choice.fingerprint()
        == RunnerChoice(weights=choice.weights, strength=0.5, max_memory_mib=100).fingerprint()
    )
    assert choice.fingerprint() != RunnerChoice(weights=weights_of("mirnet-v2")).fingerprint()
    assert choice.choose_configurations() == choice


_MEASURED = """
import json, sys
import numpy as np
from mirnet_edge.memory import release_memory
from mirnet_edge.runtime.weights import open_weights

def read(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

frames = np.random.default_rng(0).integers(0, 256, (1, int(sys.argv[2]), 512, 3), np.uint8)
with open_weights(sys.argv[1], threads=1) as runner:
    runner.run(frames[:, :64, :64])
    release_memory()  # a pass would take from what is unused, unseen
    open("/proc/self/clear_refs", "w").write("5")
    before, plan = read("VmRSS"), runner.plan(frames)
    runner.run(frames)
    print(json.dumps([plan.pass_bytes, plan.peak_bytes, read("VmHWM") - before, read("VmHWM")]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_predicted_memory_is_near_the_measured_one(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "wide.safetensors"
    network = MIRNet(MIRNetConfig(channels=16, groups=1, blocks=1))
    checkpoints.save(network, path, ModelCard())
    answer = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(path), "512"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    predicted, peak, measured, highest = json.loads(answer)
    assert measured > 100 << 20
    # 0.75 to 1.13, as the heap happens to lie
    assert measured == pytest.approx(predicted, rel=0.4)
    assert peak == pytest.approx(highest, rel=0.3)


def test_half_of_the_available_memory_is_the_limit(monkeypatch, weights_of):
    monkeypatch.setattr(weights_module, "available_memory", lambda: 10 << 20)
    assert open_weights(weights_of("mirnet"))._limit_bytes() == 5 << 20
    assert open_weights(weights_of("mirnet"), max_memory_mib=7)._limit_bytes() == 7 << 20
