"""Fixtures of more than one folder: a tiny bundle whose graph brightens by half, small networks.

With a scale the graph also repeats every pixel that often, both ways.
"""

from __future__ import annotations

import os
import shutil
import signal
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mirnet_edge import manifest

if TYPE_CHECKING:
    from pathlib import Path

GAIN = 1.5


def pytest_configure():
    """Keep tiny networks on one core, and take Ctrl-C, here and in the programs that tests start.

    Waiting for a busy second core took 97 s instead of 9. Shells ignore Ctrl-C in what they run
    in the background, and programs inherit that.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest, so that those who share the tests end together."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def _graph(io, size, gain, scale):
    """Return an ONNX model as the export writes them: cast, scale, transpose, work, and back."""
    from onnx import TensorProto, helper

    # a graph of one size takes one frame, as those of the export do
    count, height, width = (1, *size) if size else ("n", "h", "w")
    floating = io == "float"
    shape = [count, 3, height, width] if floating else [count, height, width, 3]
    tall, wide = (scale * height, scale * width) if size else ("tall", "wide")
    enlarged = [count, 3, tall, wide] if floating else [count, tall, wide, 3]
    kind = TensorProto.FLOAT if floating else TensorProto.UINT8
    # a 3x3 kernel, so that it has what real graphs have: neighbors and a border
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[range(3), range(3), 1, 1] = gain
    constants = {"scale": np.float32(1 / 255), "full": np.float32(255), "kernel": kernel}
    constants |= {"zero": np.float32(0), "one": np.float32(1)}
    constants |= {"factors": np.array([1, 1, scale, scale], np.float32)}
    inner = [
        helper.make_node("Conv", ["batch", "kernel"], ["bright"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["bright", "zero", "one"], ["clipped"]),
    ]
    if scale > 1:
        inner.insert(
            1,
            helper.make_node(
                "Resize", ["bright", "", "factors"], ["large"], mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            ),
        )  # fmt: skip
        inner[-1].input[0] = "large"
    if floating:
        inner[0].input[0], inner[-1].output[0] = "frames", "restored"
        nodes = inner
    else:
        nodes = [
            helper.make_node("Cast", ["frames"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["levels", "scale"], ["unit"]),
            helper.make_node("Transpose", ["unit"], ["batch"], perm=[0, 3, 1, 2]),
            *inner,
            helper.make_node("Mul", ["clipped", "full"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["rounded"]),
            helper.make_node("Transpose", ["rounded"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Cast", ["last"], ["restored"], to=TensorProto.UINT8),
        ]
    graph = helper.make_graph(
        nodes,
        "brighten",
        [helper.make_tensor_value_info("frames", kind, shape)],
        [helper.make_tensor_value_info("restored", kind, enlarged if scale > 1 else shape)],
        [
            helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel())
            for name, value in ((name, np.asarray(value)) for name, value in constants.items())
        ],
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


@pytest.fixture(scope="session")
def chromium():
    """Return the path of the system's Chromium."""
    pytest.importorskip("playwright", reason="needs pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return path


WIDTH, HEIGHT, FPS = 320, 240, 15


@pytest.fixture(scope="session")
def dark_frames():
    """Return 30 frames of a photo that moves by, with a seventh of its light."""
    data = pytest.importorskip("skimage.data", reason="the clip is made of one of its photos")
    photo = data.astronaut()
    return [
        np.ascontiguousarray(photo[100 : 100 + HEIGHT, 2 * at : 2 * at + WIDTH] // 7)
        for at in range(30)
    ]


@pytest.fixture(scope="module")
def browser(chromium, dark_frames, tmp_path_factory):
    """Return Chromium, whose fake camera plays the dark frames.

    It ends with each file of tests: while it runs, no other event loop can on this thread.
    """
    import cv2
    from playwright.sync_api import sync_playwright

    clip = tmp_path_factory.mktemp("clip") / "dark.y4m"
    frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes() for frame in dark_frames]
    head = f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{FPS}:1 Ip A1:1 C420\n".encode()
    clip.write_bytes(head + b"".join(b"FRAME\n" + frame for frame in frames))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-video-capture={clip}",
            ],
        )
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Open pages, and close them at the end: open_page(address, **how the browser is)."""
    contexts = []

    def opened(address, **how):
        contexts.append(browser.new_context(accept_downloads=True, **how))
        page = contexts[-1].new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda line: line.type == "error" and page.faults.append(line.text))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def write_video(tmp_path):
    """Return a lossless file in the temporary folder: write_video("a.mkv", frames, rate=25)."""
    av = pytest.importorskip("av")

    def write(name, frames, rate=25):
        path = tmp_path / name
        height, width = frames.shape[1:3]
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def make_graph():
    """Write an ONNX file that brightens: make_graph(path, io="uint8", size=None, gain=1.5).

    scale=2 also doubles both sides.
    """

    def make(path: Path, *, io="uint8", size=None, gain=GAIN, scale=1) -> Path:
        path.write_bytes(_graph(io, size, gain, scale).SerializeToString())
        return path

    return make


@pytest.fixture
def make_mode():
    """Return a mode of a manifest: make_mode("openvino:fp32", p50_ms=3.0)."""

    def make(name, *, p50_ms=None, accepted=True, reason="said the gate", graph="fp32"):
        backend, _, precision = name.partition(":")
        latency = None
        if p50_ms is not None:
            latency = manifest.LatencyFacts(
                p50_ms=p50_ms, p95_ms=p50_ms, ratio_to_fp32=1.0, height=8, width=8, runs=1,
                samples_ms=[p50_ms],
            )  # fmt: skip
        return manifest.Configuration(
            name=name, backend=backend, precision=precision, graph=graph, against_fp32=None,
            against_truth=None, truth_drop_db=None, latency=latency, accepted=accepted,
            reason=reason,
        )  # fmt: skip

    return make


@pytest.fixture
def make_bundle(tmp_path, make_graph, make_mode):
    """Write a bundle: make_bundle(modes=[...], io="uint8", size=None, multiple=4, kept=True).

    scale=2 makes one that doubles both sides.
    """

    def make(
        name="bundle", *, modes=None, default="onnxruntime:fp32", io="uint8", size=None,
        multiple=4, scale=1, kept=True,
    ) -> Path:  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        graph = manifest.bind(make_graph(folder / "fp32.onnx", io=io, size=size, scale=scale))
        (folder / "weights.safetensors").write_bytes(b"weights")
        written = manifest.Manifest(
            schema_version=1,
            created="2026-11-23T00:00:00+00:00",
            model=manifest.ModelFacts(
                architecture="mirnet-edge", config={}, task="low-light", source="test",
                weights=manifest.bind(folder / "weights.safetensors"), parameters=1,
                macs_640x480=1,
            ),
            image=manifest.ImageContract(io=io, multiple=multiple, size=size, scale=scale),
            calibration=None,
            gate=manifest.GateFacts(max_drop_db=0.1, images=1, references=0, source="test"),
            graphs=[
                manifest.GraphFacts(
                    name="fp32", precision="fp32", targets=["cpu"], onnx=graph, kept=kept,
                    against_fp32=None, against_truth=None, truth_drop_db=None,
                )
            ],
            modes=modes if modes is not None else [make_mode("onnxruntime:fp32", p50_ms=1.0)],
            default_configuration=default,
            machine=manifest.MachineFacts(
                processor="test", cores=1, instructions=[], system="test", python="3"
            ),
            tools={},
        )  # fmt: skip
        (folder / manifest.FILE_NAME).write_bytes(manifest.to_json(written))
        return folder

    return make


@pytest.fixture
def frames_of():
    """Return reproducible frames: frames_of(height, width, count=1), (N, H, W, 3) uint8."""

    def make(height, width, count=1):
        generator = np.random.default_rng([height, width, count])
        return generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)

    return make


@cache
def _network(name, seed=0):
    import torch

    from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
    from mirnet_edge.models.keras_mirnet import KerasMIRNet, KerasMIRNetConfig
    from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
    from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config

    torch.manual_seed(seed)
    if name == "edge":
        network = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 12, 16), blocks=1, exposure_channels=4))
    elif name == "light":
        network = MIRNetEdge(
            MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4, light=True)
        )
    elif name == "light-enlarging":
        network = MIRNetEdge(
            MIRNetEdgeConfig(channels=(8, 12, 16), stem=1, exposure_channels=0, scale=2, light=True)
        )
    elif name == "one-stream":
        network = MIRNetEdge(
            MIRNetEdgeConfig(
                channels=(8, 0, 0), depth=4, stem=1, exposure_channels=0, scale=2, light=True
            )
        )
    elif name == "enlarging":  # and without a branch for the exposure
        network = MIRNetEdge(
            MIRNetEdgeConfig(channels=(8, 12, 16), stem=2, exposure_channels=0, scale=2)
        )
    elif name == "mirnet":
        network = MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1, streams=2, columns=1))
    elif name == "keras-mirnet":
        network = KerasMIRNet(KerasMIRNetConfig(variant="2021", channels=8, groups=1, blocks=1))
    else:
        network = MIRNetV2(MIRNetV2Config(channels=8, groups=1, blocks=1, conv_groups=(1,)))
    with torch.no_grad():  # MIRNetEdge starts at the identity, which hides mistakes
        for weight in network.parameters():
            # fusions of a Keras MIRNet and separable convolutions make features small
            scale = {
                "keras-mirnet": 0.2,
                "light": 0.15,
                "light-enlarging": 0.1,
                "one-stream": 0.1,
            }.get(name, 0.05)
            weight.add_(scale * torch.randn_like(weight))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def network_of():
    """Return a small network: network_of("edge", seed=0), "light", "enlarging",
    "light-enlarging", "one-stream", "mirnet", "mirnet-v2" or "keras-mirnet".

    Do not change it: all tests share it.
    """
    return _network


@pytest.fixture(scope="session")
def graph_of(tmp_path_factory, network_of):
    """Return the fp32 file of a small network: graph_of("edge", io="uint8", size=(32, 48))."""
    from mirnet_edge.export.onnx_graph import export_onnx

    folder = tmp_path_factory.mktemp("graphs")

    def make(name, io="uint8", size=(32, 48)):
        path = folder / f"{name}-{io}-{'fixed' if size else 'any'}.onnx"
        if not path.exists():
            network = network_of(name)
            export_onnx(network, path, io=io, size=size, multiple=network.multiple)
        return path

    return make


@pytest.fixture(scope="session")
def smooth_frames():
    """Return frames with a plane and waves in them: smooth_frames(height, width, count=1)."""

    def make(height, width, count=1):
        rng = np.random.default_rng([height, width, count])
        across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        across, down = across[None, ..., None], down[None, ..., None]
        slopes, waves = rng.uniform(-1, 1, (2, 2, count, 1, 1, 3))
        plane = across * slopes[0] + down * slopes[1]
        wave = np.sin(8 * (across * waves[0] + down * waves[1]))
        return (127 + 70 * plane + 50 * wave).clip(0, 255).astype(np.uint8)

    return make
