"""Build TensorRT-RTX engines of the shipped weights and full networks, without a GPU.

    python benchmarks/engines.py build/engines [--capabilities 8.0,8.6,8.9,12.0] [--network mirnet]

Prints build time and engine size per network, precision and compute capability. It shows that the
engines build; their latency and quality need a GPU. Graphs have dynamic shapes in one optimization
profile: 64x64, 640x480, 1920x1088. INT8 is calibrated on 64x64 corners of four built-in images; the
full networks have random weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mirnet_edge import checkpoints
from mirnet_edge.calibration.sets import builtin_set
from mirnet_edge.checkpoints.store import list_shipped_weights
from mirnet_edge.export.onnx_graph import export_onnx, to_fp16
from mirnet_edge.manifest import ImageContract
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.models.mirnet import MIRNet
from mirnet_edge.models.mirnet_v2 import MIRNetV2
from mirnet_edge.quantization.ptq import quantize_for_tensorrt
from mirnet_edge.runtime.tensorrt.build import BuildSettings, profiles_for
from mirnet_edge.runtime.tensorrt.build_process import BuildRequest, build_apart

FULL = {"mirnet": MIRNet, "mirnet-v2": MIRNetV2}
PRECISIONS = ("fp32", "fp16", "int8")
_SIDE = 64


def main() -> None:
    """Print a table row for each graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the graphs; existing ones are reused")
    # --cards: the former name
    parser.add_argument("--capabilities", "--cards", default="8.0,8.6,8.9,12.0")
    parser.add_argument("--network", help="only this one")
    arguments = parser.parse_args()
    capabilities = arguments.capabilities.split(",")
    names = [name.removeprefix("shipped:") for name in list_shipped_weights()] + list(FULL)
    headings = " | ".join(f"SM {one}: s, MiB" for one in capabilities)
    print(f"| network | precision | ONNX MiB | {headings} |")
    print(f"|---|---|---|{'---|' * len(capabilities)}")
    for name in [arguments.network] if arguments.network else names:
        for precision in PRECISIONS:
            path, image = export_graph(name, precision, arguments.folder)
            cells = [build_engine(path, image, one) for one in capabilities]
            size = path.stat().st_size / 2**20
            print(f"| {name} | {precision} | {size:.1f} | {' | '.join(cells)} |", flush=True)


def build_engine(path: Path, image: ImageContract, capability: str) -> str:
    """Return seconds and MiB of one engine build; the engine is deleted."""
    plan = path.with_suffix(".plan")
    order = BuildRequest(
        onnx=path, plan=plan, profiles=profiles_for(image), graph=path.stem,
        settings=BuildSettings(capabilities=(capability,)), flavor="tensorrt_rtx",
    )  # fmt: skip
    started = time.perf_counter()
    facts = build_apart(order)
    seconds = time.perf_counter() - started
    plan.unlink()
    return f"{seconds:.0f}, {facts.plan.size_bytes / 2**20:.1f}"


def export_graph(name: str, precision: str, folder: Path) -> tuple[Path, ImageContract]:
    """Return an ONNX file, exported where it does not exist, and its image contract."""
    fp32 = folder / f"{name}-fp32.onnx"
    path = folder / f"{name}-{precision}.onnx"
    network = FULL[name]() if name in FULL else checkpoints.load(f"shipped:{name}").model
    image = ImageContract(io="uint8", multiple=int(network.multiple), size=None)
    if not fp32.exists():
        form = to_inference_form(network)
        export_onnx(form, fp32, io=image.io, size=None, multiple=image.multiple)
    if precision == "fp16" and not path.exists():
        to_fp16(fp32, path)
    if precision == "int8" and not path.exists():
        images = builtin_set("low-light").calibration[:4]
        quantize_for_tensorrt(fp32, path, [one.frame[None, :_SIDE, :_SIDE] for one in images])
    return path, image


if __name__ == "__main__":
    main()
