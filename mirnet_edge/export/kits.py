"""Kits for compilers that run elsewhere: Hailo's Dataflow Compiler and Rockchip's RKNN Toolkit 2.

A kit is a folder with what the compiler takes: the network as a float ONNX file of one size, the
calibration images as arrays, and a script that compiles it and compares the outcome with fp32. The
compilers belong to their makers and run on an x86 computer; nothing is compiled here.

What such a compiler makes of a network can look right and be wrong, above all with few calibration
images. So the script prints the PSNR of the compiled network against fp32, which is in the kit.
"""

from __future__ import annotations

import json
import shutil
from string import Template
from typing import TYPE_CHECKING, Literal

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.files import write_atomically
from mirnet_edge.images.contract import batch_from_frames, frames_from_batch
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.onnx_files import write_model
from mirnet_edge.onnx_sessions import OnnxSession

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from mirnet_edge.export.workspace import Workspace
    from mirnet_edge.images.contract import Frames

KitName = Literal["hailo", "rknn"]
KITS: tuple[KitName, ...] = ("hailo", "rknn")
_OPSET = 17
"""The newest that both compilers read: Hailo's up to 17, Rockchip's up to 19."""
_NETWORK, _CALIBRATION, _EXPECTED = "network.onnx", "calibration.npy", "expected.npy"
_ADVISED_IMAGES = {"hailo": 1024, "rknn": 200}
"""How many calibration images the makers advise."""
_COMPARED = 4


def write_kit(workspace: Workspace, name: KitName) -> Path:
    """Write a kit into the bundle's folder, under its name.

    Args:
        workspace: Of an export with a size.
        name: For which compiler.

    Raises:
        GraphError: The graph has no form in the older ONNX that the compiler reads.
        ValueError: The export has no size, which `ExportOptions` refuses.
    """
    size = workspace.image.size
    if size is None:
        raise ValueError("a kit is of one size")
    workspace.on_stage(f"write the kit for {name}")
    folder = workspace.path(name)
    folder.mkdir()
    _write_network(workspace, folder / _NETWORK, size)
    # cut and padded to the graph's size; as floats where it takes those
    frames = np.concatenate([_as_frames(sample) for sample in workspace.samples])
    _write_array(folder / _CALIBRATION, frames)
    _write_array(folder / _EXPECTED, _restore(folder / _NETWORK, frames[:_COMPARED]))
    facts: dict[str, int | str] = {
        "height": size[0], "width": size[1], "scale": workspace.image.scale,
        "images": len(frames), "advised": _ADVISED_IMAGES[name],
        "task": workspace.loaded.card.task,
    }  # fmt: skip
    for file, text in _texts(name, facts).items():
        write_atomically(folder / file, text.encode())
    return folder


def _write_network(workspace: Workspace, path: Path, size: tuple[int, int]) -> None:
    """Write the network as (1, 3, H, W) float RGB in [0, 1], in an ONNX that the compilers read."""
    import onnx

    for other in KITS:
        present = workspace.path(other) / _NETWORK
        if present.is_file():
            shutil.copyfile(present, path)
            return
    network = to_inference_form(workspace.loaded.model)
    newest = path.with_suffix(".newest.onnx")
    try:
        export_onnx(network, newest, io="float", size=size, multiple=workspace.image.multiple)
        model = onnx.load(newest)
    finally:
        newest.unlink(missing_ok=True)
    write_model(to_opset(model, _OPSET), path)


def to_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model in an older opset of ONNX.

    Raises:
        GraphError: An operator is newer.
    """
    import onnx

    older = onnx.ModelProto()
    older.CopyFrom(model)
    for node in older.graph.node:
        # reductions got it in 18, where their axes became an input; its default changes nothing
        kept = [one for one in node.attribute if one.name != "noop_with_empty_axes" or one.i]
        del node.attribute[:]
        node.attribute.extend(kept)
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(older, opset)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise GraphError(
            f"the graph has no form in ONNX opset {opset}: {str(error).splitlines()[0]}; the "
            "network cannot be compiled for this device"
        ) from error
    return converted


def _as_frames(sample: np.ndarray) -> Frames:
    if sample.dtype == np.uint8:
        return np.asarray(sample)
    frames: Frames = frames_from_batch(sample)
    return frames


def _restore(network: Path, frames: Frames) -> Frames:
    import onnxruntime

    session = OnnxSession(str(network), onnxruntime.SessionOptions(), name=network.name)
    feed = session.get_inputs()[0].name
    outputs = [
        frames_from_batch(session.run(None, {feed: batch_from_frames(frame[None])})[0])
        for frame in frames
    ]
    restored: Frames = np.concatenate(outputs)
    return restored


def _write_array(path: Path, frames: Frames) -> None:
    with path.open("wb") as file:
        np.save(file, frames)


def _texts(name: KitName, facts: dict[str, int | str]) -> dict[str, str]:
    """Return the scripts and the README of a kit, by file name."""
    values = {one: str(value) for one, value in facts.items()}
    found = {
        "compile.py": Template(_SCRIPTS[name]).substitute(values),
        "README.md": Template(_README).substitute(values, **_WORDS[name]),
        "facts.json": json.dumps(facts, indent=1) + "\n",
    }
    if name == "hailo":
        found["network.alls"] = Template(_ALLS).substitute(values)
    return found


_README = """# $title kit: $task at ${width}x${height}

Not compiled here: $compiler belongs to $maker and was not at hand when this kit was made. No
figure of this network on this device exists.

| file | what |
|---|---|
| `network.onnx` | the network, (1, 3, $height, $width) float RGB in [0, 1], ONNX opset 17 |
| `calibration.npy` | $images images, (N, $height, $width, 3) 8-bit RGB; $maker advises $advised |
| `expected.npy` | what fp32 makes of the first of them, 8-bit RGB |
$more
`compile.py` runs on an x86 computer with $compiler installed ($install):

    python compile.py $example

It compiles, runs the compiled network $where on the first images, and prints the PSNR
against fp32. Below 40 dB do not use it: give more calibration images, from your own camera
(`mirnet export --calibration DIR`), before anything else. Compiled networks of too few images look
right and are wrong.
"""
_WORDS: dict[KitName, dict[str, str]] = {
    "hailo": {
        "title": "Hailo", "maker": "Hailo", "compiler": "the Dataflow Compiler",
        "install": "hailo_sdk_client, from Hailo's developer zone",
        "example": "hailo8    # or hailo8l, hailo10h, hailo15h, hailo15l",
        "where": "in the compiler's emulator",
        "more": "| `network.alls` | the model script: scale of the input, calibration |\n",
    },
    "rknn": {
        "title": "RKNN", "maker": "Rockchip", "compiler": "RKNN Toolkit 2",
        "install": "pip install rknn-toolkit2",
        "example": "rk3588    # or rk3576, rk3568, rk3566, rk3562",
        "where": "in the toolkit's simulator", "more": "",
    },
}  # fmt: skip
_ALLS = """normalization1 = normalization([0.0, 0.0, 0.0], [255.0, 255.0, 255.0])
model_optimization_config(calibration, batch_size=4, calibset_size=$images)
model_optimization_flavor(optimization_level=1, compression_level=0)
"""
_COMPARE = '''

def psnr(found, expected):
    """Return the PSNR in dB of 8-bit images."""
    error = np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255.0**2 / error)


def report(found, expected):
    """Print how far a compiled network is from fp32."""
    levels = np.clip(np.rint(255.0 * np.asarray(found, np.float64)), 0, 255).astype(np.uint8)
    found_db = psnr(levels.reshape(expected.shape), expected)
    print(f"{found_db:.2f} dB against fp32 on {len(expected)} images")
    if not found_db >= 40.0:
        sys.exit("too far from fp32: give more calibration images before you use it")
'''
_SCRIPTS: dict[KitName, str] = {
    "hailo": '''"""Compile network.onnx to network.hef: python compile.py hailo8."""

import sys
from pathlib import Path

import numpy as np
from hailo_sdk_client import ClientRunner, InferenceContext

HERE = Path(__file__).parent
'''
    + _COMPARE
    + '''

def main(device):
    """Compile for a device and compare its quantized network with fp32."""
    calibration = np.load(HERE / "calibration.npy")
    expected = np.load(HERE / "expected.npy")
    runner = ClientRunner(hw_arch=device)
    runner.translate_onnx_model(
        str(HERE / "network.onnx"), "mirnet_edge", net_input_shapes=[1, 3, $height, $width]
    )
    runner.load_model_script(str(HERE / "network.alls"))
    runner.optimize(calibration.astype(np.float32))
    runner.save_har(str(HERE / "network.har"))
    with runner.infer_context(InferenceContext.SDK_QUANTIZED) as context:
        report(runner.infer(context, calibration[: len(expected)].astype(np.float32)), expected)
    (HERE / "network.hef").write_bytes(runner.compile())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "hailo8")
''',
    "rknn": '''"""Compile network.onnx to network.rknn: python compile.py rk3588."""

import sys
from pathlib import Path

import numpy as np
from rknn.api import RKNN

HERE = Path(__file__).parent
'''
    + _COMPARE
    + '''

def check(status, what):
    """Stop where the toolkit says that something failed."""
    if status != 0:
        sys.exit(f"{what} failed with status {status}; its lines above say why")


def main(device):
    """Compile for a device and compare it, in the simulator, with fp32."""
    calibration = np.load(HERE / "calibration.npy")
    expected = np.load(HERE / "expected.npy")
    arrays = HERE / "arrays"
    arrays.mkdir(exist_ok=True)
    names = []
    for place, image in enumerate(calibration):
        names.append(str(arrays / f"{place}.npy"))
        np.save(names[-1], image.transpose(2, 0, 1)[None])  # NCHW, as the network's input
    (HERE / "dataset.txt").write_text("\\n".join(names) + "\\n")
    rknn = RKNN(verbose=False)
    rknn.config(mean_values=[[0, 0, 0]], std_values=[[255, 255, 255]], target_platform=device)
    check(rknn.load_onnx(str(HERE / "network.onnx")), "reading the network")
    check(rknn.build(do_quantization=True, dataset=str(HERE / "dataset.txt")), "compiling")
    check(rknn.export_rknn(str(HERE / "network.rknn")), "writing network.rknn")
    check(rknn.init_runtime(), "starting the simulator")
    outputs = [
        rknn.inference(inputs=[image[None]], data_format=["nhwc"])[0]
        for image in calibration[: len(expected)]
    ]
    # (N, 3, H, W) as the network gives it
    report(np.concatenate(outputs).transpose(0, 2, 3, 1), expected)
    rknn.release()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "rk3588")
''',
}
