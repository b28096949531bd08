"""Benchmark entries: configurations of bundles, baselines and competitor models, and their runners.

A competitor model is an ONNX file with one image input and one image output, NCHW float in [0, 1]
or NHWC uint8. Two that need more are supported:

- Zero-DCE (Guo et al., CVPR 2020) returns 24 curve maps; the image is brightened eight times by
  x + a (x^2 - x), with three maps each.
- Bread (Guo and Hu, IJCV 2023) has the inputs `gamma` and `strength` too, one number each.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.bench.blocked_layout import DOMAIN, replace_blocked_operators
from mirnet_edge.bench.classical import baseline_named, baselines_for
from mirnet_edge.bench.record import ReportRow
from mirnet_edge.checkpoints.cards import assumed_task
from mirnet_edge.dependencies import available, require
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.files import sha256_of
from mirnet_edge.images.contract import check_frames
from mirnet_edge.manifest import ImageContract, read_manifest
from mirnet_edge.runtime import onnxruntime_runner
from mirnet_edge.runtime.backends import backend_names, find_backend
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.machine_configurations import add_configurations
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.torch_runner import TorchRunner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import onnx
    from numpy.typing import NDArray

    from mirnet_edge.bench.classical import Baseline
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import Configuration, Manifest
    from mirnet_edge.runtime.runner import Runner

logger = logging.getLogger(__name__)
_IMAGE_AXES = 4


def count_macs(path: Path, height: int, width: int) -> int | None:
    """Return the multiply-accumulates of a graph's convolutions for one frame.

    Counted as `models.macs` counts them for our own networks; a transposed convolution by its
    input. None where the package onnx is not installed, or shape inference fails.

    Args:
        path: An ONNX file whose inputs with four axes are images.
        height: Of the frame.
        width: Of the frame.
    """
    if not available("onnx"):
        return None
    import onnx

    model = onnx.load(str(path))
    for one in model.graph.input:
        _set_image_shape(one, height, width)
    del model.graph.output[:], model.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        logger.info("%s: shape inference failed: %s", path.name, error)
        return None
    shapes = {
        one.name: [axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in [*inferred.graph.value_info, *inferred.graph.input]
    }
    shapes |= {one.name: list(one.dims) for one in inferred.graph.initializer}
    counts: list[int | None] = [_macs_of(node, shapes) for node in inferred.graph.node]
    known = [count for count in counts if count is not None]
    total = sum(known)
    return total if len(known) == len(counts) and total > 0 else None


def _set_image_shape(value: onnx.ValueInfoProto, height: int, width: int) -> None:
    axes = value.type.tensor_type.shape.dim
    if len(axes) != _IMAGE_AXES:
        return
    channels_first = axes[1].dim_value == 3
    shape = (1, 3, height, width) if channels_first else (1, height, width, 3)
    for axis, side in zip(axes, shape, strict=True):
        axis.dim_value = side


def write_with_frame_size(path: Path, resized: Path, height: int, width: int) -> None:
    """Write an ONNX file of a network for images, for frames of one size.

    Args:
        path: The file, of any size or another one.
        resized: What is written.
        height: Of the frame.
        width: Of the frame.
    """
    import onnx

    model = onnx.load(str(path))
    del model.graph.value_info[:]
    for one in model.graph.input:
        _set_image_shape(one, height, width)
    for one in model.graph.output:
        one.type.tensor_type.ClearField("shape")  # it follows from the input's
    onnx.save(model, str(resized))


def _macs_of(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | None:
    """Return a convolution's count, 0 for other nodes, None where shapes are not known."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return 0
    weight = shapes.get(node.input[1])
    counted = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    if not weight or not counted or not all(weight) or not all(counted):
        return None
    return math.prod(counted) * math.prod(weight[1:])


_RANDOM_WEIGHTS_NOTE = "random weights: for latency only; of the published size, run by torch"


class FullMirnetRunner(TorchRunner):
    """MIRNet as published (64 channels, 3 groups of 2 blocks) with random weights."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Set the options; the network is made when the runner opens.

        Args:
            threads: For one run; None for torch's default.
        """
        image = ImageContract(io="float", multiple=4, size=None)
        super().__init__(
            Path("mirnet-random"), image, name="full MIRNet", precision="fp32", threads=threads
        )

    def _load(self) -> None:
        require("torch", "--full-mirnet")
        import torch

        from mirnet_edge.checkpoints import ModelCard, save
        from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            self.path = Path(folder) / "mirnet-random.safetensors"
            save(MIRNet(MIRNetConfig()), self.path, ModelCard())
            super()._load()


def _full_mirnet_macs() -> int | None:
    """Return the multiply-accumulates of full MIRNet at 640x480; None without torch."""
    if not available("torch"):
        return None
    from mirnet_edge.models.macs import count_macs
    from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

    return count_macs(MIRNet(MIRNetConfig()), 480, 640)


# Bread's brightness factor and denoising strength. Neither is written in the file: of gamma 0.5,
# 1, 1.3, 2.2 and strength 0, 0.05, 1 these gave the best PSNR on a LOL image (2026-11).
EXTRA_INPUTS = {"gamma": 1.0, "strength": 0.05}
_CURVES, _CHANNELS = 8, 3
# For networks that halve the image up to three times; Bread fails on other sizes.
_MULTIPLE = 8
_EXPECTED = (
    "expected one image input, NCHW float or NHWC uint8 with 3 channels, and no others than "
    f"{' and '.join(EXTRA_INPUTS)}"
)


def open_competitor(path: Path, *, threads: int | None = None) -> CompetitorRunner:
    """Return a runner for a competitor's ONNX file; `with` opens it.

    Raises:
        EngineError: Not an ONNX file, or one with unsupported inputs or outputs.
    """
    return CompetitorRunner(path, _image_contract(path), threads=threads)


class CompetitorRunner(OnnxRuntimeRunner):
    """A competitor model in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, image: ImageContract, *, threads: int | None = None) -> None:
        """Set the file and options; the session is made when the runner opens.

        Args:
            path: The ONNX file.
            image: Layout of its input and output.
            threads: For one run; None for all that this process may use.
        """
        super().__init__(path, image, name=path.stem, precision="fp32", threads=threads)
        self._extra: dict[str, NDArray[Any]] = {}

    def _load(self) -> None:
        super()._load()
        image, *others = _sorted_inputs(self._session)
        self._input = image.name
        self._extra = {
            one.name: np.full([1] * len(one.shape), EXTRA_INPUTS[one.name], np.float32)
            for one in others
        }

    def _model(self) -> str | bytes:
        content = self.path.read_bytes()
        if DOMAIN.encode() not in content:
            return str(self.path)
        import onnx

        model = onnx.load_from_string(content)
        return model.SerializeToString() if replace_blocked_operators(model) else str(self.path)

    def _infer(self, fed: NDArray[Any]) -> NDArray[Any]:
        output = np.asarray(self._session.run(None, {self._input: fed, **self._extra})[0])
        if self.image.io == "float" and output.shape[1] == _CURVES * _CHANNELS:
            return apply_zero_dce_curves(fed, output)
        return output


def apply_zero_dce_curves(batch: NDArray[Any], curves: NDArray[Any]) -> NDArray[Any]:
    """Return a batch brightened by Zero-DCE's curve maps.

    Args:
        batch: (N, 3, H, W) float32 in [0, 1].
        curves: (N, 24, H, W): a of x + a (x^2 - x), for three channels, eight times.

    Returns:
        (N, 3, H, W) float32.
    """
    value = batch
    for step in range(_CURVES):
        strength = curves[:, _CHANNELS * step : _CHANNELS * (step + 1)]
        value = value + strength * (value * value - value)
    return value


def _image_contract(path: Path) -> ImageContract:
    """Return the layout of a file's input and output, if it is supported."""
    session = _open_session(path)
    image, *others = _sorted_inputs(session)
    known = {
        ("tensor(float)", 1): "float",
        ("tensor(uint8)", 3): "uint8",
    }
    places = [place for place, side in enumerate(image.shape) if side == _CHANNELS]
    io = next((known[image.type, one] for one in places if (image.type, one) in known), None)
    unknown = [one.name for one in others if one.name not in EXTRA_INPUTS]
    if io is None or len(image.shape) != _IMAGE_AXES or unknown:
        raise EngineError(
            f"{path.name} has the inputs {_describe_tensors(session.get_inputs())}; {_EXPECTED}"
        )
    output = session.get_outputs()[0]
    is_image = len(output.shape) == _IMAGE_AXES
    channels = output.shape[1 if io == "float" else 3] if is_image else None
    wrong = isinstance(channels, int) and channels not in (_CHANNELS, _CURVES * _CHANNELS)
    if output.type != image.type or wrong:
        raise EngineError(
            f"{path.name} has the output {_describe_tensors([output])}; expected an image like its "
            f"input, or {_CURVES * _CHANNELS} curve maps"
        )
    sides = image.shape[2:] if io == "float" else image.shape[1:3]
    fixed = tuple(sides) if all(isinstance(side, int) for side in sides) else None
    return ImageContract(
        io="float" if io == "float" else "uint8",
        multiple=1 if fixed else _MULTIPLE,
        size=(fixed[0], fixed[1]) if fixed else None,
    )


def _open_session(path: Path) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
    onnxruntime_runner.BACKEND.require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too
    options.intra_op_num_threads = 1
    if not path.is_file():
        raise EngineError(f"{path} is not there; expected an ONNX file")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen exception types
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"{path} is not an ONNX file that opens: {reason}; {_EXPECTED}"
        ) from error


def _sorted_inputs(session: Any) -> list[Any]:  # noqa: ANN401  # ONNX Runtime has no types
    """Return a session's inputs, the image first."""
    return sorted(session.get_inputs(), key=lambda one: one.name in EXTRA_INPUTS)


def _describe_tensors(tensors: list[Any]) -> str:
    return ", ".join(
        f"{one.name} {one.type.removeprefix('tensor')} {tuple(one.shape)}" for one in tensors
    )


EntrySource = Literal["bundle", "competitor", "baseline", "full mirnet"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkEntry:
    """A bundle configuration, competitor model or baseline to benchmark; opens nothing itself."""

    source: EntrySource
    path: str = ""
    """Of the bundle or the ONNX file; the name of a baseline."""
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None

    def runner(self) -> Runner:
        """Return the entry's runner; `with` opens it.

        Raises:
            MirnetEdgeError: It cannot run here.
        """
        if self.source == "bundle":
            return open_bundle(self.path, self.backend, self.precision, threads=self.threads)
        if self.source == "competitor":
            return open_competitor(Path(self.path), threads=self.threads)
        if self.source == "baseline":
            return BaselineRunner(baseline_named(self.path))
        return FullMirnetRunner(threads=self.threads)

    def to_json(self) -> str:
        """Return the entry as JSON, for another process."""
        return json.dumps(asdict(self))


def entry_from_json(text: str) -> BenchmarkEntry:
    """Return the entry of `BenchmarkEntry.to_json`."""
    return BenchmarkEntry(**json.loads(text))


class BaselineRunner:
    """A classical method as a runner."""

    multiple = 1

    def __init__(self, baseline: Baseline) -> None:
        """Set the method."""
        self._baseline = baseline
        self.name = baseline.name
        self.scale = 2 if "super-resolution" in baseline.tasks else 1

    def __enter__(self) -> BaselineRunner:
        """Return the runner; there is nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing; there is nothing to close."""

    def run(self, frames: Frames) -> Frames:
        """Return the restored frames, (N, H, W, 3) uint8."""
        check_frames(frames)
        return np.stack([self._baseline.restore(frame) for frame in frames])


def bundle_entries(
    bundles: Sequence[Path], *, backends: Sequence[str] = (), threads: int | None = None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return an entry for each configuration of the bundles, with the facts of its report row.

    Args:
        bundles: Folders.
        backends: Only these; all where it is empty.
        threads: For each runner; None for the backend's default.

    Raises:
        BundleError: A folder is not a bundle.
        OptionError: Two folders have one name, or there is no such backend.
    """
    for backend in backends:
        find_backend(backend)
    names = [bundle.resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        raise OptionError(
            f"expected bundles of different names, found {', '.join(names)}; rename a folder"
        )
    found = []
    for bundle, name in zip(bundles, names, strict=True):
        manifest = read_manifest(bundle)
        for backend in backends:
            manifest = add_configurations(manifest, backend)
        chosen = [one for one in manifest.configurations if not backends or one.backend in backends]
        for one in chosen:
            entry = BenchmarkEntry(
                source="bundle",
                path=str(bundle),
                backend=one.backend,
                precision=one.precision,
                threads=threads,
            )
            found.append((entry, _configuration_row(one, manifest, name)))
        for backend in backends:
            if backend not in {one.backend for one in chosen}:
                entry = BenchmarkEntry(
                    source="bundle", path=str(bundle), backend=backend, threads=threads
                )
                found.append((entry, _missing_row(backend, manifest, name)))
    return found


def competitor_entries(
    competitors: Sequence[Path], task: str | None, *, threads: int | None = None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return competitor models with the facts of their report rows.

    Raises:
        EngineError: A file is missing or not supported, or two have one name.
    """
    found = []
    for path in competitors:
        open_competitor(path)
        row = ReportRow(
            name=path.stem,
            kind="competitor",
            task=task,
            backend=onnxruntime_runner.BACKEND.name,
            precision="fp32",
            state="measured",
            note=_bread_note(path),
            sha256=sha256_of(path),
            bytes_on_disk=path.stat().st_size,
            macs_640x480=count_macs(path, 480, 640),
        )
        found.append((BenchmarkEntry(source="competitor", path=str(path), threads=threads), row))
    names = [row.name for _, row in found]
    if len(set(names)) < len(names):
        raise EngineError(
            f"expected competitors of different names, found {', '.join(names)}; rename a file"
        )
    return found


def baseline_entries(
    names: Sequence[str] | None, task: str | None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return baselines with the facts of their report rows.

    Args:
        names: Which; None for all of the task.
        task: The task of the bundles.

    Raises:
        OptionError: No such baseline.
    """
    if names is None:
        chosen = baselines_for(task) if task else []
    else:
        chosen = [baseline_named(name) for name in names]
    return [
        (
            BenchmarkEntry(source="baseline", path=one.name),
            ReportRow(
                name=one.name,
                kind="baseline",
                task=task,
                backend=None,
                precision=None,
                state="measured",
            ),
        )
        for one in chosen
    ]


def full_mirnet_entry(
    task: str | None, *, threads: int | None = None
) -> tuple[BenchmarkEntry, ReportRow]:
    """Return full MIRNet with random weights, for latency only, and the facts of its report row."""
    row = ReportRow(
        name="full MIRNet",
        kind="random weights",
        task=task,
        backend="torch",
        precision="fp32",
        state="measured",
        note=_RANDOM_WEIGHTS_NOTE,
        macs_640x480=_full_mirnet_macs(),
    )
    return BenchmarkEntry(source="full mirnet", threads=threads), row


def _configuration_row(configuration: Configuration, manifest: Manifest, name: str) -> ReportRow:
    backend = configuration.backend
    runs_weights = backend in backend_names() and find_backend(backend).runs_weights
    file = manifest.model.weights if runs_weights else manifest.graph(configuration.graph).onnx
    return ReportRow(
        name=f"{name} {configuration.name}",
        kind="bundle",
        task=assumed_task(manifest.model.task),
        backend=configuration.backend,
        precision=configuration.precision,
        state="measured",
        note=""
        if configuration.accepted
        else f"rejected by the quality gate: {configuration.reason}",
        sha256=file.sha256,
        bytes_on_disk=file.size_bytes,
        macs_640x480=manifest.model.macs_640x480,
        accepted=configuration.accepted,
    )


def _missing_row(backend: str, manifest: Manifest, name: str) -> ReportRow:
    known = ", ".join(one.name for one in manifest.configurations)
    return ReportRow(
        name=f"{name} {backend}",
        kind="bundle",
        task=assumed_task(manifest.model.task),
        backend=backend,
        precision=None,
        state="missing",
        note=f"the bundle has no configuration for {backend}; it has {known}",
    )


def _bread_note(path: Path) -> str:
    if not path.stem.startswith("bread"):
        return ""
    return ", ".join(f"{name} {value:g}" for name, value in EXTRA_INPUTS.items())
