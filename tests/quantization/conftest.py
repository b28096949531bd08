"""Small networks and their graphs, and a way to run a graph as it stands."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

SIZE = (32, 48)


@pytest.fixture(scope="session")
def graph_of(tmp_path_factory, network_of):
    """Return the fp32 file of a small network as it is deployed, uint8, SIZE: graph_of("edge")."""
    from mirnet_edge.export.onnx_graph import export_onnx
    from mirnet_edge.models.inference_form import to_inference_form

    folder = tmp_path_factory.mktemp("graphs")

    @cache
    def make(name):
        path, network = folder / f"{name}.onnx", network_of(name)
        deployed = to_inference_form(network)
        export_onnx(deployed, path, io="uint8", size=SIZE, multiple=network.multiple)
        return path

    return make


@pytest.fixture(scope="session")
def run_graph():
    """Return a graph's output as the file says it, without fusions: run_graph(model, array)."""
    import onnxruntime

    def run(model, given):
        options = onnxruntime.SessionOptions()
        # ONNX Runtime multiplies fp16 scales while it fuses, which costs what no other backend pays
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, {session.get_inputs()[0].name: given})[0]

    return run


@pytest.fixture(scope="session")
def images():
    """Return smooth images of SIZE: images(count), each (1, H, W, 3) uint8."""

    def make(count):
        rng = np.random.default_rng(7)
        across, down = np.meshgrid(np.linspace(0, 1, SIZE[1]), np.linspace(0, 1, SIZE[0]))
        made = []
        for _ in range(count):
            slopes, waves = rng.uniform(-1, 1, (2, 3)), rng.uniform(2, 8, (2, 3))
            plane = across[..., None] * slopes[0] + down[..., None] * slopes[1]
            wave = np.sin(across[..., None] * waves[0] + down[..., None] * waves[1])
            made.append((127 + 70 * plane + 50 * wave).clip(0, 255).astype(np.uint8)[None])
        return made

    return make


@pytest.fixture(scope="session")
def decibels():
    """Return the PSNR of one array against another: decibels(found, expected, peak)."""

    def psnr(found, expected, peak):
        error = np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)
        return float(20 * np.log10(peak) - 10 * np.log10(max(error, 1e-30)))

    return psnr
