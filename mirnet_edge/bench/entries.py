"""Benchmark entries: bundles, baselines, competitor models; how each one is opened.

Known are networks with one image in and one out, NCHW float in [0, 1] or NHWC uint8, and two
that need more:

- Zero-DCE (Guo et al., CVPR 2020) gives 24 maps; the image is brightened eight times by
  x + a (x^2 - x), three maps each.
- Bread (Guo and Hu, IJCV 2023) also takes `gamma` and `strength`, one number each.
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
from mirnet_edge.dependencies import available, require
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.files import sha256_of
from mirnet_edge.images.contract import check_frames
from mirnet_edge.manifest import ImageContract, read_manifest
from mirnet_edge.runtime import onnxruntime_runner
from mirnet_edge.runtime.backends import backend_names, find_backend
from mirnet_edge.runtime.bundle import open_bundle
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
    """Return the multiply-accumulates of a graph's convolutions for one frame of that size.

    What `models.macs` counts for our own networks; a transposed convolution is counted by its
    input. None where the package onnx is not installed, or shapes cannot be told from the graph:
    then the figure is not known, and not zero.

    Args:
        path: An ONNX file whose first input with four axes is the image.
        height: Of the frame.
        width: The same.
    """
    if not available("onnx"):
        return None
    import onnx

    model = onnx.load(str(path))
    for one in model.graph.input:
        _fix(one, height, width)
    del model.graph.output[:], model.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        logger.info("%s: shapes are not known: %s", path.name, error)
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


def _fix(value: onnx.ValueInfoProto, height: int, width: int) -> None:
    axes = value.type.tensor_type.shape.dim
    if len(axes) != _IMAGE_AXES:
        return
    channels_first = axes[1].dim_value == 3
    shape = (1, 3, height, width) if channels_first else (1, height, width, 3)
    for axis, side in zip(axes, shape, strict=True):
        axis.dim_value = side


def _macs_of(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | None:
    """Return a node's count, 0 for what is not counted, None where its shapes are not known."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return 0
    weight = shapes.get(node.input[1])
    counted = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    if not weight or not counted or not all(weight) or not all(counted):
        return None
    return math.prod(counted) * math.prod(weight[1:])


NOTE = "random weights: for latency only; the published network's size, run by torch"


class FullMirnetRunner(TorchRunner):
    """MIRNet as published (64 channels, 3 groups of 2 blocks), weights drawn at random."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Remember what to make; nothing is made yet.

        Args:
            threads: How many one run may use; None leaves it to torch.
        """
        image = ImageContract(io="float", multiple=4, size=None)
        super().__init__(
            Path("mirnet-random"), image, name="full MIRNet", precision="fp32", threads=threads
        )

    def _load(self) -> None:
        require("torch", "the row of full MIRNet")
        import torch

        from mirnet_edge.checkpoints import ModelCard, save
        from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            self.path = Path(folder) / "mirnet-random.safetensors"
            save(MIRNet(MIRNetConfig()), self.path, ModelCard())
            super()._load()


def full_macs() -> int | None:
    """Return the network's multiply-accumulates for 640x480; None where torch is not installed."""
    if not available("torch"):
        return None
    from mirnet_edge.models.macs import count_macs
    from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

    return count_macs(MIRNet(MIRNetConfig()), 480, 640)


# Bread's brightness factor and denoising strength. Neither is written in the file: of gamma 0.5,
# 1, 1.3, 2.2 and strength 0, 0.05, 1 these gave the best PSNR on a LOL image (2026-11).
EXTRA_INPUTS = {"gamma": 1.0, "strength": 0.05}
_CURVES, _CHANNELS = 8, 3
# What networks that halve the image up to three times need; Bread fails on other sizes.
_MULTIPLE = 8
_EXPECTED = (
    "expected one image, NCHW float or NHWC uint8 with 3 channels, and of other inputs only "
    f"{' and '.join(EXTRA_INPUTS)}"
)


def open_competitor(path: Path, *, threads: int | None = None) -> CompetitorRunner:
    """Return a runner for an ONNX file; `with` opens it.

    Raises:
        EngineError: Not an ONNX file, or one with other inputs or outputs.
    """
    return CompetitorRunner(path, _contract_of(path), threads=threads)


class CompetitorRunner(OnnxRuntimeRunner):
    """A competitor in ONNX Runtime on the processor."""

    def __init__(self, path: Path, image: ImageContract, *, threads: int | None = None) -> None:
        """Remember what to open.

        Args:
            path: The ONNX file.
            image: What it takes and gives.
            threads: How many one run may use; None for all that this process may use.
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
        given = np.asarray(self._session.run(None, {self._input: fed, **self._extra})[0])
        if self.image.io == "float" and given.shape[1] == _CURVES * _CHANNELS:
            return apply_zero_dce_curves(fed, given)
        return given


def apply_zero_dce_curves(batch: NDArray[Any], curves: NDArray[Any]) -> NDArray[Any]:
    """Return what Zero-DCE's maps make of an image.

    Args:
        batch: (N, 3, H, W) float32 in [0, 1].
        curves: (N, 24, H, W): a of x + a (x^2 - x), for three channels eight times.

    Returns:
        (N, 3, H, W) float32.
    """
    value = batch
    for step in range(_CURVES):
        strength = curves[:, _CHANNELS * step : _CHANNELS * (step + 1)]
        value = value + strength * (value * value - value)
    return value


def _contract_of(path: Path) -> ImageContract:
    """Return what a file takes, after refusing what we cannot feed or read."""
    session = _session(path)
    image, *others = _sorted_inputs(session)
    known = {
        ("tensor(float)", 1): "float",
        ("tensor(uint8)", 3): "uint8",
    }
    places = [place for place, side in enumerate(image.shape) if side == _CHANNELS]
    io = next((known[image.type, one] for one in places if (image.type, one) in known), None)
    strange = [one.name for one in others if one.name not in EXTRA_INPUTS]
    if io is None or len(image.shape) != 4 or strange:
        raise EngineError(f"{path.name} takes {_describe_error(session.get_inputs())}; {_EXPECTED}")
    output = session.get_outputs()[0]
    channels = output.shape[1 if io == "float" else 3] if len(output.shape) == 4 else None
    wrong = isinstance(channels, int) and channels not in (_CHANNELS, _CURVES * _CHANNELS)
    if output.type != image.type or wrong:
        raise EngineError(
            f"{path.name} gives {_describe_error([output])}; expected an image like its input, or "
            f"{_CURVES * _CHANNELS} curve maps"
        )
    sides = image.shape[2:] if io == "float" else image.shape[1:3]
    fixed = tuple(sides) if all(isinstance(side, int) for side in sides) else None
    return ImageContract(
        io="float" if io == "float" else "uint8",
        multiple=1 if fixed else _MULTIPLE,
        size=(fixed[0], fixed[1]) if fixed else None,
    )


def _session(path: Path) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
    onnxruntime_runner.BACKEND.require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    options.intra_op_num_threads = 1
    if not path.is_file():
        raise EngineError(f"{path} is not there; expected an ONNX file")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen kinds
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"{path} is not an ONNX file that opens: {reason}; {_EXPECTED}"
        ) from error


def _sorted_inputs(session: Any) -> list[Any]:  # noqa: ANN401  # ONNX Runtime has no types
    """Return a session's inputs, the image first."""
    return sorted(session.get_inputs(), key=lambda one: one.name in EXTRA_INPUTS)


def _describe_error(tensors: list[Any]) -> str:
    return ", ".join(
        f"{one.name} {one.type.removeprefix('tensor')} {tuple(one.shape)}" for one in tensors
    )


Source = Literal["bundle", "competitor", "baseline", "full mirnet"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkEntry:
    """Someone to measure; cheap to make, and small enough to be told to another process."""

    source: Source
    path: str = ""
    """Of the bundle or the ONNX file; the method's name for a baseline."""
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None

    def runner(self) -> Runner:
        """Return what runs it; `with` opens it.

        Raises:
            MirnetEdgeError: It cannot run here; says why.
        """
        if self.source == "bundle":
            return open_bundle(self.path, self.backend, self.precision, threads=self.threads)
        if self.source == "competitor":
            return open_competitor(Path(self.path), threads=self.threads)
        if self.source == "baseline":
            return BaselineRunner(baseline_named(self.path))

        return FullMirnetRunner(threads=self.threads)

    def told(self) -> str:
        """Return it as text for another process."""
        return json.dumps(asdict(self))


def entry_from_json(text: str) -> BenchmarkEntry:
    """Return the entry that `told` gave."""
    return BenchmarkEntry(**json.loads(text))


class BaselineRunner:
    """A classical method as a runner."""

    multiple = 1

    def __init__(self, baseline: Baseline) -> None:
        """Wrap a method."""
        self._baseline = baseline
        self.name = baseline.name
        self.scale = 2 if "super-resolution" in baseline.tasks else 1

    def __enter__(self) -> BaselineRunner:
        """Open nothing: there is nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free nothing."""

    def run(self, frames: Frames) -> Frames:
        """Restore frames, (N, H, W, 3) uint8, one after the other."""
        import numpy as np

        check_frames(frames)
        return np.stack([self._baseline.restore(frame) for frame in frames])


def bundle_entries(
    bundles: Sequence[Path], *, backends: Sequence[str] = (), threads: int | None = None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return every mode of the bundles, with the facts of its row.

    Args:
        bundles: Folders.
        backends: Only these; all where none is named.
        threads: How many each may use; None leaves it to the backends.

    Raises:
        BundleError: One is no bundle.
        OptionError: Two have one name, or there is no such backend.
    """
    for backend in backends:
        find_backend(backend)
    names = [bundle.resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        raise OptionError(
            f"two bundles have one name ({', '.join(names)}); expected a name for each. Rename one"
        )
    found = []
    for bundle, name in zip(bundles, names, strict=True):
        manifest = read_manifest(bundle)
        modes = [
            mode for mode in manifest.configurations if not backends or mode.backend in backends
        ]
        for mode in modes:
            entry = BenchmarkEntry(
                source="bundle",
                path=str(bundle),
                backend=mode.backend,
                precision=mode.precision,
                threads=threads,
            )
            found.append((entry, _row_of(mode, manifest, name)))
        for backend in backends:
            if backend not in {mode.backend for mode in modes}:
                entry = BenchmarkEntry(
                    source="bundle", path=str(bundle), backend=backend, threads=threads
                )
                found.append((entry, _absent(backend, manifest, name)))
    return found


def competitor_entries(
    competitors: Sequence[Path], task: str | None, *, threads: int | None = None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return competitors with the facts of their rows.

    Raises:
        EngineError: One is missing, or of a kind that we cannot feed; before anything is measured.
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
        raise EngineError(f"two competitors have one name ({', '.join(names)}); rename one")
    return found


def baseline_entries(
    names: Sequence[str] | None, task: str | None
) -> list[tuple[BenchmarkEntry, ReportRow]]:
    """Return classical methods with the facts of their rows.

    Args:
        names: Which; None for those of the task.
        task: What the networks do.

    Raises:
        OptionError: No such method.
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


def _row_of(mode: Configuration, manifest: Manifest, name: str) -> ReportRow:
    runs_weights = mode.backend in backend_names() and find_backend(mode.backend).runs_weights
    file = manifest.model.weights if runs_weights else manifest.graph(mode.graph).onnx
    return ReportRow(
        name=f"{name} {mode.name}",
        kind="bundle",
        task=manifest.model.task,
        backend=mode.backend,
        precision=mode.precision,
        state="measured",
        note="" if mode.accepted else f"not accepted by the gate: {mode.reason}",
        sha256=file.sha256,
        bytes_on_disk=file.size_bytes,
        macs_640x480=manifest.model.macs_640x480,
        accepted=mode.accepted,
    )


def _absent(backend: str, manifest: Manifest, name: str) -> ReportRow:
    known = ", ".join(mode.name for mode in manifest.configurations)
    return ReportRow(
        name=f"{name} {backend}",
        kind="bundle",
        task=manifest.model.task,
        backend=backend,
        precision=None,
        state="missing",
        note=f"the bundle has no mode for {backend}; it has {known}",
    )


def _bread_note(path: Path) -> str:
    if not path.stem.startswith("bread"):
        return ""
    return ", ".join(f"{name} {value:g}" for name, value in EXTRA_INPUTS.items())
