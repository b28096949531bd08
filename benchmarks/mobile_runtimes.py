"""Compare the runtimes of phones and boards with ours on one network: parity, dB, ms, MiB.

Each runtime is used from its own Python, because no environment holds all of them:

    python benchmarks/mobile_runtimes.py convert --runtime litert --size 640x480
    python benchmarks/mobile_runtimes.py run --size 640x480 --threads 2 \
        --python litert=envs/litert/bin/python --python executorch=envs/executorch/bin/python

`convert` writes NAME-PRECISION-WxH files to `--work`; run it with the runtime's Python, which needs
this package and torch too. `run` times what is there in interleaved rounds, and measures quality at
608x400 on the validation pairs of `--data` (a folder with `pairs.csv`, as LOL's).

ncnn's tool for INT8 is not in its wheel: what it writes is written here (`quantize_ncnn`).
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CALIBRATION_IMAGES = 12
QUALITY_SIZE = (400, 608)  # (height, width): LOL's images, padded to the network's multiple
SUFFIXES = {"litert": ".tflite", "executorch": ".pte", "ncnn": ".ncnn.param",
            "onnxruntime": ".onnx", "openvino": ".onnx"}  # fmt: skip
NCNN_INT8_TAG = 0x000D4B38  # in front of 8-bit weights


def read_rows(data: Path, split: str) -> list[dict[str, str]]:
    """Return the rows of a split of `pairs.csv`."""
    with (data / "pairs.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def calibration_frames(data: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """Return training images, (H, W, 3), padded or repeated to SIZE."""
    from mirnet_edge.images.files import read_image

    rows = read_rows(data, "train")
    chosen = rows[:: len(rows) // CALIBRATION_IMAGES][:CALIBRATION_IMAGES]
    return [fit(read_image(data / row["low"]).frame, size) for row in chosen]


def fit(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a frame continued by reflection to SIZE, or cut to it."""
    more = [(0, max(0, side - have)) for side, have in zip(size, frame.shape[:2], strict=True)]
    padded = np.pad(frame, (*more, (0, 0)), mode="reflect")
    return np.ascontiguousarray(padded[: size[0], : size[1]])


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    """Return the PSNR of two 8-bit images, at most 100 dB."""
    error = float(np.mean((one.astype(np.float64) - two) ** 2))
    return 100.0 if error == 0.0 else 10.0 * float(np.log10(255.0**2 / error))


def name_of(work: Path, runtime: str, precision: str, size: tuple[int, int]) -> Path:
    """Return the file of a converted network."""
    return work / f"{runtime}-{precision}-{size[1]}x{size[0]}{SUFFIXES[runtime]}"


def convert_litert(work: Path, data: Path, size: tuple[int, int]) -> None:
    """Write fp32, fp16 and INT8, as `mirnet export --format litert` does."""
    from mirnet_edge import checkpoints
    from mirnet_edge.export.litert import halve_litert, quantize_litert, write_litert
    from mirnet_edge.manifest import ImageContract

    network = checkpoints.load("shipped:low-light").model
    fp32 = name_of(work, "litert", "fp32", size)
    write_litert(network, fp32, ImageContract(io="uint8", multiple=16, size=size))
    halve_litert(fp32, name_of(work, "litert", "fp16", size))
    samples = [frame[None] for frame in calibration_frames(data, size)]
    quantize_litert(fp32, name_of(work, "litert", "int8", size), samples)


def convert_executorch(work: Path, data: Path, size: tuple[int, int]) -> None:
    """Write fp32 and INT8 for XNNPACK; limited to convolutions, its quantizer left all in float."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from mirnet_edge.images.contract import batch_from_frames

    network, example = deployed_network(), (torch.rand(1, 3, *size),)
    scheme = get_symmetric_quantization_config(is_per_channel=True)
    quantizers = {
        "fp32": None,
        "int8": XNNPACKQuantizer().set_global(scheme),
    }
    for precision, quantizer in quantizers.items():
        program = torch.export.export(network, example, strict=False)
        if quantizer is not None:
            prepared = prepare_pt2e(program.module(), quantizer)
            for frame in calibration_frames(data, size):
                prepared(torch.from_numpy(batch_from_frames(frame[None])))
            program = torch.export.export(convert_pt2e(prepared), example, strict=False)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path = name_of(work, "executorch", precision, size)
        path.write_bytes(lowered.to_executorch().buffer)


def convert_ncnn(work: Path, data: Path, size: tuple[int, int]) -> None:
    """Write fp32 by pnnx, and INT8."""
    import pnnx
    import torch

    traced = work / f"ncnn-{size[1]}x{size[0]}.pt"
    example = torch.rand(1, 3, *size)
    with torch.inference_mode():
        torch.jit.trace(deployed_network(), example, check_trace=False).save(str(traced))
    param = name_of(work, "ncnn", "fp32", size)
    shape = f"inputshape=[1,3,{size[0]},{size[1]}]"
    files = [f"ncnnparam={param}", f"ncnnbin={param.with_suffix('.bin')}"]
    command = [pnnx.EXEC_PATH, str(traced), shape, "fp16=0", *files]
    subprocess.run(command, check=True, capture_output=True)
    quantize_ncnn(param, name_of(work, "ncnn", "int8", size), calibration_frames(data, size))


def quantize_ncnn(source: Path, target: Path, frames: list[np.ndarray]) -> None:
    """Write the INT8 form of an ncnn network, in the format of `ncnn2int8`.

    Weights per channel, inputs by their largest magnitude; only convolutions over pixels, and not
    those of the exposure branch.
    """
    lines = source.read_text(encoding="utf-8").splitlines()
    content = source.with_suffix(".bin").read_bytes()
    layers = [_NcnnLayer(line) for line in lines[2:]]
    made_by = {blob: layer for layer in layers for blob in layer.outputs}
    chosen = [
        one
        for one in layers
        if one.kind == "Convolution" and not _is_pooled(one, made_by) and not _sees_thumbnail(one)
    ]
    ranges = _ncnn_ranges(source, chosen, frames)
    written, place, head = bytearray(), 0, lines[:2]
    for layer, line in zip(layers, lines[2:], strict=True):
        if layer.kind != "Convolution":
            head.append(line)
            continue
        count, outputs = int(layer.options["6"]), int(layer.options["0"])
        weights = np.frombuffer(content, "<f4", count, place + 4)
        end = place + 4 + 4 * count
        bias = content[end : end + 4 * outputs * int(layer.options.get("5", "0"))]
        if layer.name in ranges:
            rows = weights.reshape(outputs, -1)
            scales = 127.0 / np.maximum(np.abs(rows).max(1), 1e-9)
            levels = np.rint(rows * scales[:, None]).astype(np.int8).tobytes()
            written += struct.pack("<I", NCNN_INT8_TAG) + levels + b"\0" * (-len(levels) % 4)
            written += bias + scales.astype("<f4").tobytes()
            written += struct.pack("<f", 127.0 / ranges[layer.name])
            line += " 8=2"
        else:
            written += content[place:end] + bias
        head.append(line)
        place = end + len(bias)
    target.write_text("\n".join(head) + "\n", encoding="utf-8")
    target.with_suffix(".bin").write_bytes(bytes(written))


class _NcnnLayer:
    """A line of a .param file."""

    def __init__(self, line: str) -> None:
        self.kind, self.name, inputs, outputs, *rest = line.split()
        first, last = int(inputs), int(inputs) + int(outputs)
        self.inputs, self.outputs = rest[:first], rest[first:last]
        self.options = dict(one.split("=", 1) for one in rest[last:])


def _is_pooled(layer: _NcnnLayer, made_by: dict[str, _NcnnLayer]) -> bool:
    """Return whether a convolution's input is a mean over the frame, or computed from one."""
    before = made_by[layer.inputs[0]]
    while before.kind in ("Split", "Concat"):
        before = made_by[before.inputs[0]]
    if before.kind == "Convolution":
        return _is_pooled(before, made_by)
    return before.kind == "Reduction"


def _sees_thumbnail(layer: _NcnnLayer) -> bool:
    """Return whether it is a convolution of the exposure branch: the only ones of stride 2."""
    return layer.options["3"] == "2"


def _ncnn_ranges(
    source: Path, layers: list[_NcnnLayer], frames: list[np.ndarray]
) -> dict[str, float]:
    """Return the largest magnitude of each convolution's input."""
    import ncnn

    net = _open_ncnn(source, 1)
    net.opt.lightmode = False  # all blobs are kept
    found = {layer.name: 0.0 for layer in layers}
    for frame in frames:
        with net.create_extractor() as extractor:
            extractor.input("in0", _ncnn_input(ncnn, frame))
            for layer in layers:
                _, blob = extractor.extract(layer.inputs[0])
                found[layer.name] = max(found[layer.name], float(np.abs(np.array(blob)).max()))
    return found


def convert_onnxruntime(work: Path, data: Path, size: tuple[int, int]) -> None:
    """Write fp32, and INT8 as ONNX Runtime's kernels want it: outputs quantized too, unsigned."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    from mirnet_edge import checkpoints
    from mirnet_edge.export.onnx_graph import export_onnx
    from mirnet_edge.models.inference_form import to_inference_form
    from mirnet_edge.quantization.legalizer import list_whole_frame_convs
    from mirnet_edge.quantization.ptq import quantize_for_cpu

    fp32 = name_of(work, "onnxruntime", "fp32", size)
    network = to_inference_form(checkpoints.load("shipped:low-light").model)
    export_onnx(network, fp32, io="uint8", size=size, multiple=16)
    frames = [frame[None] for frame in calibration_frames(data, size)]
    quantize_for_cpu(fp32, name_of(work, "openvino", "int8", size), frames)
    name_of(work, "openvino", "fp32", size).write_bytes(fp32.read_bytes())

    class Reader(CalibrationDataReader):
        left = iter([{"frames": frame} for frame in frames])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    graph = onnx.load(fp32)
    whole = set(list_whole_frame_convs(graph))
    nodes = [one.name for one in graph.graph.node if one.op_type == "Conv"]
    quantize_static(
        str(fp32), str(name_of(work, "onnxruntime", "int8", size)), Reader(), per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
        nodes_to_quantize=[one for one in nodes if one not in whole],
    )  # fmt: skip


def deployed_network():  # noqa: ANN201  # torch is imported late
    """Return the shipped low-light network, (1, 3, H, W) float in [0, 1] in and out."""
    from mirnet_edge import checkpoints
    from mirnet_edge.models.inference_form import FrameInterface, to_inference_form

    network = to_inference_form(checkpoints.load("shipped:low-light").model)
    return FrameInterface(network, "float").eval()


CONVERTERS = {"litert": convert_litert, "executorch": convert_executorch, "ncnn": convert_ncnn,
              "onnxruntime": convert_onnxruntime}  # fmt: skip


def open_litert(path: Path, threads: int):  # noqa: ANN201  # a function of a frame
    """Return what restores one frame (H, W, 3) in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    fed, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(frame: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(fed["index"], frame[None])
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])[0]

    return run


def open_executorch(path: Path, threads: int):  # noqa: ANN201
    """Return the same for ExecuTorch."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    torch.set_num_threads(threads)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(frame: np.ndarray, keep: object = program) -> np.ndarray:
        batch = torch.from_numpy(frame).permute(2, 0, 1)[None].float().mul_(1 / 255).contiguous()
        (output,) = method.execute([batch])
        levels = (output * 255).round().to(torch.uint8)[0]
        return levels.permute(1, 2, 0).contiguous().numpy()

    return run


def _open_ncnn(path: Path, threads: int):  # noqa: ANN202
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = "bf16" in path.name
    source = Path(str(path).replace("bf16", "fp32"))
    net.load_param(str(source))
    net.load_model(str(source.with_suffix(".bin")))
    return net


def _ncnn_input(ncnn, frame: np.ndarray):  # noqa: ANN001, ANN202
    height, width = frame.shape[:2]
    mat = ncnn.Mat.from_pixels(frame, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
    mat.substract_mean_normalize([], [1 / 255] * 3)
    return mat


def open_ncnn(path: Path, threads: int):  # noqa: ANN201
    """Return the same for ncnn."""
    import ncnn

    net = _open_ncnn(path, threads)

    def run(frame: np.ndarray) -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", _ncnn_input(ncnn, frame))
            _, output = extractor.extract("out0")
        levels = np.rint(np.array(output) * 255).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(1, 2, 0))

    return run


def open_ours(path: Path, threads: int):  # noqa: ANN201
    """Return the same for a backend of this package."""
    from mirnet_edge.manifest import ImageContract
    from mirnet_edge.runtime.backends import find_backend

    backend, precision, size = path.name.split(".")[0].split("-")
    width, height = map(int, size.split("x"))
    image = ImageContract(io="uint8", multiple=16, size=(height, width))
    runner = find_backend(backend).runner(
        path, image, name=path.stem, precision=precision, threads=threads
    )
    runner.__enter__()
    return lambda frame: runner.run(frame[None])[0]


OPENERS = {"litert": open_litert, "executorch": open_executorch, "ncnn": open_ncnn,
           "onnxruntime": open_ours, "openvino": open_ours}  # fmt: skip


def work(path: Path, threads: int, data: Path) -> None:
    """Answer requests on standard input: `time`, or `quality`, each by a line of JSON."""
    run = OPENERS[path.name.split("-")[0]](path, threads)
    width, height = map(int, path.name.split(".")[0].split("-")[2].split("x"))
    frame = fit(_dark_frame(data), (height, width))
    for line in sys.stdin:
        if line.strip() == "quality":
            answer = measure_quality(run, data)
        else:
            started, used = time.perf_counter(), time.process_time()
            run(frame)
            answer = {
                "ms": 1e3 * (time.perf_counter() - started),
                "cpu_ms": 1e3 * (time.process_time() - used),
            }
        sys.stdout.write(f"answer {json.dumps(answer)}\n")
        sys.stdout.flush()


def _dark_frame(data: Path) -> np.ndarray:
    from mirnet_edge.images.files import read_image

    return np.tile(read_image(data / read_rows(data, "val")[0]["low"]).frame, (2, 3, 1))


def measure_quality(run, data: Path) -> dict[str, float]:  # noqa: ANN001  # a function of a frame
    """Return the mean PSNR to the ground truth, and what differs from the torch network."""
    import torch

    from mirnet_edge.images.contract import batch_from_frames, frames_from_batch
    from mirnet_edge.images.files import read_image

    network = deployed_network()
    truth, parity, furthest = [], [], 0
    for row in read_rows(data, "val"):
        low, high = (read_image(data / row[side]).frame for side in ("low", "high"))
        frame = fit(low, QUALITY_SIZE)
        with torch.inference_mode():
            batch = network(torch.from_numpy(batch_from_frames(frame[None]))).numpy()
        expected, found = frames_from_batch(batch)[0], run(frame)
        height, width = high.shape[:2]
        truth.append(psnr(found[:height, :width], high))
        parity.append(psnr(found, expected))
        furthest = max(furthest, int(np.abs(found.astype(int) - expected).max()))
    return {
        "psnr_db": statistics.fmean(truth),
        "parity_db": statistics.fmean(parity),
        "furthest": furthest,
    }


class Worker:
    """A process that runs one file in its runtime."""

    def __init__(self, python: str, path: Path, threads: int, data: Path) -> None:
        """Start it; its name is the file's without the size."""
        self.name = path.name.split(".")[0].rsplit("-", 1)[0]
        command = [python, __file__, "work", str(path), str(threads), str(data)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip

    def ask(self, what: str) -> dict[str, float]:
        """Return the answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:  # libraries print too
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit(f"{self.name} ended; run it alone to see why")

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def size_kib(path: Path) -> float:
    """Return the size of a converted network; ncnn's is two files."""
    sizes = [path.stat().st_size]
    if path.name.endswith(".param"):
        sizes.append(path.with_suffix(".bin").stat().st_size)
    return sum(sizes) / 1024


def run(args: argparse.Namespace, size: tuple[int, int]) -> None:
    """Print a table of what is in the folder at that size."""
    pythons = dict(one.split("=", 1) for one in args.python)
    endings = tuple(SUFFIXES.values())
    files = sorted(
        path for path in args.work.glob(f"*-{size[1]}x{size[0]}.*")
        if path.name.endswith(endings) and path.name.split("-")[0] in OPENERS
    )  # fmt: skip
    opened = {
        path: Worker(pythons.get(path.name.split("-")[0], sys.executable), path, args.threads,
                     args.data)
        for path in files
    }  # fmt: skip
    if args.quality:
        print("| runtime, precision | PSNR, dB | to torch, dB | furthest, levels | KiB |")
        print("|---|---|---|---|---|")
        for path, worker in opened.items():
            found = worker.ask("quality")
            print(
                f"| {worker.name} | {found['psnr_db']:.3f} | {found['parity_db']:.1f} "
                f"| {found['furthest']} | {size_kib(path):.0f} |", flush=True,
            )  # fmt: skip
    else:
        print_latencies(list(opened.values()), args.rounds)
    for worker in opened.values():
        worker.close()


def print_latencies(workers: list[Worker], rounds: int, warmup: int = 3) -> None:
    """Time the workers in turns, and print medians and ratios to OpenVINO in INT8."""
    samples: dict[str, list[dict[str, float]]] = {worker.name: [] for worker in workers}
    for turn in range(warmup + rounds):
        for worker in workers:
            answer = worker.ask("time")
            if turn >= warmup:
                samples[worker.name].append(answer)
    reference = samples["openvino-int8"]
    print("| runtime, precision | ms | x OpenVINO INT8 | CPU ms | x OpenVINO INT8 |")
    print("|---|---|---|---|---|")
    for name, answers in samples.items():
        cells = []
        for key in ("ms", "cpu_ms"):
            own = statistics.median(one[key] for one in answers)
            ratio = statistics.median(
                one[key] / two[key] for one, two in zip(answers, reference, strict=True)
            )
            cells += [f"{own:.1f}", f"{ratio:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Convert, or time what was converted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("convert", "run"):
        one = commands.add_parser(name)
        one.add_argument("--work", type=Path, default=Path("build/mobile"))
        one.add_argument("--data", type=Path, required=True)
        one.add_argument("--size", default="640x480")
        if name == "convert":
            one.add_argument("--runtime", choices=list(CONVERTERS), required=True)
        else:
            one.add_argument("--python", action="append", default=[], metavar="RUNTIME=PATH")
            one.add_argument("--threads", type=int, default=2)
            one.add_argument("--rounds", type=int, default=25)
            one.add_argument("--quality", action="store_true", help="quality, at 608x400")
    working = commands.add_parser("work")
    working.add_argument("path", type=Path)
    working.add_argument("threads", type=int)
    working.add_argument("data", type=Path)
    args = parser.parse_args()
    if args.command == "work":
        work(args.path, args.threads, args.data)
        return
    width, height = map(int, args.size.split("x"))
    args.work.mkdir(parents=True, exist_ok=True)
    if args.command == "convert":
        CONVERTERS[args.runtime](args.work, args.data, (height, width))
    else:
        run(args, (height, width))


if __name__ == "__main__":
    main()
