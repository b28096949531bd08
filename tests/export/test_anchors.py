"""Anchored bundles from the real job, with a tiny network; and running, tiling, steadying them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

import mirnet_edge
from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.dependencies import available
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.export.job import export_bundle
from mirnet_edge.export.onnx_graph import export_onnx, to_context_anchored_form
from mirnet_edge.export.workspace import ExportOptions
from mirnet_edge.images.files import ImageFile, write_image
from mirnet_edge.manifest import read_manifest
from mirnet_edge.models.reach import measure_reach
from mirnet_edge.quantization.legalizer import list_whole_frame_convs
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.runtime.tiling import frame_with_thumbnail, thumbnail_of, tile_runner
from mirnet_edge.testing.null_runner import NullRunner

_BACKENDS = [
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(not available("openvino"), reason="openvino is not installed"),
    ),
    "torch",
]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, network_of, smooth_frames):
    """A bundle with every precision, for any size, of the small MIRNetEdge."""
    folder = tmp_path_factory.mktemp("anchored")
    checkpoints.save(network_of("edge"), folder / "w.safetensors", ModelCard(task="low-light"))
    (folder / "images").mkdir()
    for number, frame in enumerate(smooth_frames(96, 128, 8)):
        write_image(folder / "images" / f"{number}.png", ImageFile(frame=frame // 3))
    options = ExportOptions(
        weights=str(folder / "w.safetensors"), out=folder / "bundle", fp16=True, int8=True,
        calibration=folder / "images", max_drop_db=20.0, anchored=True,
    )  # fmt: skip
    export_bundle(options)
    return folder / "bundle"


@pytest.fixture
def runner_of(bundle):
    return lambda backend="onnxruntime", precision="fp32": mirnet_edge.open_bundle(
        bundle, backend, precision, threads=1
    )


@pytest.fixture
def image(smooth_frames):
    """A frame of an odd size, dark on its left: halves of it want another exposure."""
    shade = np.linspace(0.1, 1.0, 301)[None, None, :, None]
    return (smooth_frames(203, 301, 1) * shade).astype(np.uint8)


def test_the_manifest_says_what_the_graphs_take(bundle, network_of):
    found = read_manifest(bundle)
    layout = to_context_anchored_form(network_of("edge")).layout
    assert found.image.vectors == layout
    assert 0 < found.image.reach <= 160
    assert {graph.name for graph in found.graphs} == {
        "fp32", "fp16", "int8-cpu", "int8-tensorrt", "int8-fp16-tensorrt"
    }  # fmt: skip
    for graph in found.graphs:
        model = onnx.load(bundle / graph.onnx.file).graph
        assert [one.name for one in model.input] == ["frames", "globals_in", "memory"]
        assert [one.name for one in model.output] == ["restored", "globals_out"]
        (_, length) = model.input[1].type.tensor_type.shape.dim
        assert length.dim_value == found.image.context_length


@pytest.mark.skipif(not available("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_tensorrt_builds_all_of_its_graphs(bundle):
    found = read_manifest(bundle)
    assert {engine.graph for engine in found.engines} == {
        "fp32", "fp16", "int8-tensorrt", "int8-fp16-tensorrt"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["edge", "mirnet", "mirnet-v2", "keras-mirnet"])
def test_the_same_convolutions_stay_in_float(name, graph_of, network_of, tmp_path):
    network = network_of(name)
    export_onnx(
        to_context_anchored_form(network), tmp_path / "a.onnx", io="uint8", size=(32, 48),
        multiple=network.multiple,
    )  # fmt: skip
    plain = list_whole_frame_convs(onnx.load(graph_of(name)))
    assert len(list_whole_frame_convs(onnx.load(tmp_path / "a.onnx"))) == len(plain) > 0


@pytest.mark.parametrize("backend", _BACKENDS)
def test_plain_runs_are_those_of_the_plain_network(backend, runner_of, network_of, image):
    import torch

    from mirnet_edge.images.contract import crop_to, pad_to_multiple
    from mirnet_edge.models.inference_form import FrameInterface

    padded = torch.from_numpy(pad_to_multiple(image, 16))
    expected = FrameInterface(network_of("edge"), "uint8")(padded).numpy()
    with runner_of(backend) as runner:
        found = runner.run(image)
    assert np.abs(found.astype(int) - crop_to(expected, 203, 301)).max() <= 1


@pytest.mark.parametrize("backend", _BACKENDS)
def test_vectors_go_in_and_come_out(backend, runner_of, image):
    with runner_of(backend) as runner:
        whole, own = runner.run_with_context(image, None, 0.0)
        again, used = runner.run_with_context(image, own, 1.0)
        other, blended = runner.run_with_context(image // 2, own, 0.5)
        _, others_own = runner.run_with_context(image // 2, None, 0.0)
    assert np.array_equal(again, whole)
    assert np.array_equal(used, own)
    np.testing.assert_allclose(
        blended[:, :18], 0.5 * own[:, :18] + 0.5 * others_own[:, :18], rtol=0, atol=1e-4
    )
    assert other.shape == whole.shape


@dataclass(frozen=True)
class Refusal:
    id: str
    memory: float
    given: bool = True
    spoil: float = 0.0
    length: int | None = None
    says: str = ""


@pytest.mark.parametrize(
    "case",
    [
        Refusal("above", 1.01, says=r"smoothing weight must lie in \[0, 1\], found 1.01"),
        Refusal("below", -0.1, says=r"smoothing weight must lie in \[0, 1\], found -0.1"),
        Refusal(
            "not a number", float("nan"), says=r"smoothing weight must lie in \[0, 1\], found nan"
        ),
        Refusal("nothing given", 0.5, given=False, says="no context vectors are given"),
        Refusal("infinite", 0.0, spoil=float("inf"), says="finite vectors"),
        Refusal("of another length", 1.0, length=7, says=r"found \(1, 7\)"),
    ],
    ids=lambda case: case.id,
)
def test_what_cannot_be_used_is_refused_in_one_line(case, runner_of, image):
    with runner_of() as runner:
        given = np.full((1, case.length or runner.context_length), case.spoil, np.float32)
        for one in (runner, tile_runner(runner, tile=(96, 96), overlap=32)):
            with pytest.raises(OptionError, match=case.says) as caught:
                one.run_with_context(image, given if case.given else None, case.memory)
            assert "\n" not in str(caught.value)
    if case.given and case.length is None and not case.spoil:
        with pytest.raises(OptionError, match=case.says):
            smooth_over_time(NullRunner(), smoothing_weight=case.memory)


def test_a_graph_without_vectors_says_how_to_get_them(graph_of, frames_of):
    from mirnet_edge.manifest import ImageContract
    from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

    image = ImageContract(io="uint8", multiple=16, size=None)
    with (
        OnnxRuntimeRunner(graph_of("edge", size=None), image, name="x", precision="fp32") as runner,
        pytest.raises(EngineError, match="mirnet-export --anchored"),
    ):
        runner.run_with_context(frames_of(32, 32), None, 0.0)


@pytest.mark.parametrize("backend", _BACKENDS)
def test_tiles_with_the_frames_vectors_are_the_frame(backend, runner_of, image):
    with runner_of(backend) as runner:
        whole, own = runner.run_with_context(image, None, 0.0)
        tiles = tile_runner(runner, tile=(160, 160))
        found, used = tiles.run_with_context(image, own, 1.0)
        assert np.abs(found.astype(int) - whole).max() <= 1
        assert np.mean(found != whole) < 1e-3
        assert np.array_equal(used, own)
        # and with those that the tiles found out themselves, within a level or two
        near = tiles.run(image)
        assert np.abs(near.astype(int) - whole).max() <= 3
        seen = tile_runner(_Plain(runner), tile=(160, 160)).run(image)
        assert np.mean(seen != whole) > 0.1 > np.mean(found != whole)


class _Plain:
    """A runner without its vectors."""

    def __init__(self, runner):
        self.name, self.multiple, self.scale = runner.name, runner.multiple, runner.scale
        self.run = runner.run


def test_a_frame_that_fits_a_tile_is_restored_at_once(runner_of, image):
    with runner_of() as runner:
        tiles = tile_runner(runner, tile=(512, 512))
        assert np.array_equal(tiles.run(image), runner.run(image))


def test_half_precision_and_integers_tile_as_well(runner_of, image):
    with runner_of(precision="int8") as runner:
        whole, own = runner.run_with_context(image, None, 0.0)
        found, _ = tile_runner(runner, tile=(160, 160)).run_with_context(image, own, 1.0)
        near = tile_runner(runner, tile=(160, 160)).run(image)
    assert np.abs(found.astype(int) - whole).max() <= 2
    assert np.abs(near.astype(int) - whole).max() <= 4


def test_the_stand_in_has_the_frames_thumbnail(runner_of, network_of, frames_of):
    import torch

    from mirnet_edge.models.edge import thumbnail_of as networks_own

    frame = frames_of(320, 656)[0]
    with runner_of() as runner:
        thumbnail = runner.image.vectors[0].thumbnail
        small = thumbnail_of(frame, thumbnail)
        batch = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        expected = networks_own(batch)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(small, expected, rtol=0, atol=1e-3)
        for fixed in (None, (384, 576), (480, 640)):
            stand_in = frame_with_thumbnail(small, thumbnail, runner, fixed)
            assert fixed is None or stand_in.shape[1:3] == fixed
            again = networks_own(torch.from_numpy(stand_in).permute(0, 3, 1, 2).float())
            error = again[0].permute(1, 2, 0).numpy() - small
            assert np.abs(error).max() <= 0.5 / thumbnail.factor**2 + 1e-3
        curve = runner.run_with_context(stand_in, None, 0.0)[1][:, :18]
        np.testing.assert_allclose(
            curve, runner.run_with_context(frame[None], None, 0.0)[1][:, :18], rtol=0, atol=1e-3
        )


def test_the_reach_is_nothing_where_pixels_stand_alone_and_grows_with_kernels(network_of):
    import torch

    anchored = to_context_anchored_form(network_of("edge"))
    frames = [np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)]
    reach = measure_reach(anchored, frames)
    assert 8 <= reach <= 160
    with torch.no_grad():  # 3x3 kernels become 1x1
        for module in anchored.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
                kept = module.weight[..., 1, 1].clone()
                module.weight.zero_()
                module.weight[..., 1, 1] = kept
    assert measure_reach(anchored, frames) < reach


def test_the_frame_after_a_cut_is_what_it_is_without_a_past(runner_of, smooth_frames):
    first, second = smooth_frames(96, 128, 2)[:, None]
    with runner_of() as runner:
        video = smooth_over_time(runner)
        video.run(first // 6)
        assert np.array_equal(video.run(second), runner.run(second))
        assert video.used_weight == 0.0


def test_an_enlarging_network_tiles_at_its_scale(network_of, tmp_path, smooth_frames):
    from mirnet_edge.manifest import ImageContract
    from mirnet_edge.runtime.torch_runner import TorchRunner

    network = network_of("enlarging")
    checkpoints.save(network, tmp_path / "w.safetensors", ModelCard(task="super-resolution"))
    image = ImageContract(
        io="uint8", multiple=network.multiple, size=None, scale=2, reach=48,
        vectors=to_context_anchored_form(network).layout,
    )  # fmt: skip
    frame = smooth_frames(101, 177, 1)
    with TorchRunner(tmp_path / "w.safetensors", image, name="t", precision="fp32") as runner:
        whole, own = runner.run_with_context(frame, None, 0.0)
        tiles = tile_runner(runner, tile=(112, 112))
        found, _ = tiles.run_with_context(frame, own, 1.0)
        assert found.shape == whole.shape == (1, 202, 354, 3)
        assert np.abs(found.astype(int) - whole).max() <= 1
        assert np.abs(tiles.run(frame).astype(int) - whole).max() <= 3
