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


@pytest.fixture(scope="session")
def light_frames():
    """Return a dark frame as a graph takes it, (1, 64, 96, 3): light_frames(seed)."""

    def make(seed):
        values = np.random.default_rng(seed).integers(0, 120, (1, 64, 96, 3))
        return values.astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def light_graphs(tmp_path_factory, light_frames):
    """A light network's graphs: fp32, INT8, and its cell form. Weights large enough to matter."""
    import onnx
    import torch

    from mirnet_edge.export.onnx_graph import export_onnx, to_context_anchored_form
    from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
    from mirnet_edge.models.inference_form import to_inference_form
    from mirnet_edge.onnx_files import write_model
    from mirnet_edge.quantization.cell_form import to_cell_form
    from mirnet_edge.quantization.ptq import quantize_for_cpu

    torch.manual_seed(0)
    config = MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4, light=True)
    network = MIRNetEdge(config).eval()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    torch.nn.init.normal_(network.exposure.decide[-1].weight, std=0.1)
    folder = tmp_path_factory.mktemp("cells")
    paths = {name: folder / f"{name}.onnx" for name in ("fp32", "int8", "cells")}
    anchored = to_context_anchored_form(to_inference_form(network))
    export_onnx(anchored, paths["fp32"], io="uint8", size=None, multiple=network.multiple)
    samples = [light_frames(seed) for seed in range(3)]
    quantize_for_cpu(paths["fp32"], paths["int8"], samples)
    rewritten = to_cell_form(onnx.load(paths["int8"]), paths["fp32"], samples)
    assert rewritten is not None
    write_model(rewritten, paths["cells"])
    return paths
