"""The bundle manifest (`manifest.json`): its schema, and reading and writing a bundle folder.

Schema history: 1 (2026-11) the first; 2 (2026-11) other key names (`former_keys` of each class),
and a typed `rejection` beside its text. Version 1 is still read.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mirnet_edge.errors import BundleError, GraphError
from mirnet_edge.files import recover, sha256_of
from mirnet_edge.onnx_wire import external_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION: Literal[2] = 2

BackendName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
"""The name of a backend; `runtime.backends` lists those that can be opened."""
Precision = Literal[
    "fp32", "bf16", "fp16", "int8", "int8+fp16", "int8+bf16", "fp8", "fp8+fp16"
]  # fmt: skip
Target = Literal["cpu", "tensorrt", "litert"]
"""What a graph is made for: ONNX for CPUs or TensorRT, or a LiteRT model."""
LITERT_SUFFIX = ".tflite"


class StrictDocument(BaseModel):
    """Base class of documents on disk: immutable, unknown keys are errors, former keys are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    former_keys: ClassVar[dict[str, str]] = {}
    """Keys of older schema versions that are still read, with the names they have now."""
    former_versions: ClassVar[tuple[int, ...]] = ()
    """Schema versions that differ by such keys, or by fields that have a default, alone."""

    @model_validator(mode="before")
    @classmethod
    def _read_former_schema(cls, document: object) -> object:
        """Return the document in the present schema."""
        if not isinstance(document, dict):
            return document
        document = rename_keys(document, cls.former_keys)
        version = document.get("schema_version")
        if type(version) is int and version in cls.former_versions:
            (document["schema_version"],) = get_args(cls.model_fields["schema_version"].annotation)
        return document


def rename_keys(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a document with the present names in place of former keys.

    A former key beside its present name is kept, so that it is refused as unknown.
    """
    return {
        names[key] if key in names and names[key] not in document else key: value
        for key, value in document.items()
    }


class BoundFile(StrictDocument):
    """A file of the bundle, its size and its SHA-256."""

    file: str
    """Name relative to the bundle's folder."""
    sha256: str
    size_bytes: int = Field(ge=0)


class ModelFacts(StrictDocument):
    """The network: architecture, configuration, task, weights."""

    architecture: str
    config: dict[str, Any]
    task: str
    weights: BoundFile
    source: str
    """The weights as the user named them."""
    parameters: int
    macs_640x480: int
    """Multiply-accumulates for one 640x480 frame."""


class ThumbnailFacts(StrictDocument):
    """The thumbnail of a network's input: box means, then bilinear sampling."""

    factor: int = Field(ge=1)
    """The side of the boxes, in pixels."""
    size: tuple[int, int]
    """(height, width) of the thumbnail sampled from them: half-pixel centers, not antialiased."""


class ContextVector(StrictDocument):
    """A global context vector, an input and output of context-anchored graphs."""

    name: str
    """The module that computes it; `#2` where the module runs a second time."""
    size: int = Field(ge=1)
    thumbnail: ThumbnailFacts | None = None
    """The thumbnail it is computed from; None for a mean over the frame, which the mean of its
    tiles' means approximates."""


class ImageContract(StrictDocument):
    """The inputs and outputs of the graphs: type, sizes, scale, context vectors."""

    io: Literal["uint8", "float"]
    """`uint8`: (N, H, W, 3) RGB. `float`: (N, 3, H, W) RGB float32 in [0, 1]."""
    multiple: int = Field(ge=1)
    """Height and width must be multiples of this; the runtime pads by reflection and crops."""
    size: tuple[int, int] | None
    """(height, width) of graphs of static size; None where any size is valid."""
    scale: int = Field(default=1, ge=1)
    """How many times higher and wider restored frames are; above 1 for super-resolution."""
    vectors: tuple[ContextVector, ...] = ()
    """In the order of `globals_in` and `globals_out` of context-anchored graphs; empty for graphs
    that take frames alone."""
    reach: int | None = None
    """Distance from its border, in pixels, within which a tile differs from its frame by more than
    a quarter of an 8-bit level, given the frame's context vectors; measured at the export, None for
    graphs without."""

    @property
    def context_length(self) -> int:
        """Return how many numbers a frame's context vectors hold."""
        return sum(vector.size for vector in self.vectors)


class CalibrationFacts(StrictDocument):
    """The calibration set of the INT8 ranges."""

    source: str
    images: int
    sha256: str
    """Of the sorted hashes of the images' pixels, whatever their order."""
    note: str


class QualityFacts(StrictDocument):
    """PSNR over a set of images, in dB; None stands for infinity (identical images)."""

    mean_db: float | None
    worst_db: float | None
    worst_image: str


class LatencyFacts(StrictDocument):
    """Latency of one frame, with the conversion of input and output."""

    p50_ms: float
    p95_ms: float
    ratio_to_fp32: float
    """This configuration's p50 over that of fp32 on the same backend, or in ONNX Runtime where the
    device has no fp32; interleaved in one run."""
    height: int
    width: int
    runs: int
    samples_ms: list[float]


class PlacementTrial(StrictDocument):
    """One change of what an INT8 graph quantizes, as `export.placement` measured it."""

    nodes: list[str]
    """The convolutions that were changed."""
    in_int8: bool
    """Whether they were put into INT8, or left in float."""
    drop_db: float
    """Accuracy drop of the changed graph against fp32."""
    ratio: float | None
    """Its latency over that of the best graph before it; None where its drop was too large."""
    kept: bool


class QuantizationFacts(StrictDocument):
    """How a graph was quantized, where a mixed-precision search chose it."""

    former_keys: ClassVar[dict[str, str]] = {"engine": "quantizer"}

    quantizer: Literal["onnxruntime", "nncf"]
    """The library whose quantizer was the more accurate."""
    float_blocks: list[str]
    float_nodes: list[str]
    """Convolutions over pixels left in float, beside those over global context vectors."""
    reason: str
    placement: list[PlacementTrial] = []
    """The search by latency, in its order; empty where the backend was not timed."""


class GraphFacts(StrictDocument):
    """One ONNX file or LiteRT model: a precision made for a target."""

    name: str
    """Unique in the bundle: fp32, fp16, int8-cpu, int8-tensorrt, int8-fp16-tensorrt, fp8-tensorrt,
    fp8-fp16-tensorrt, litert-fp32, litert-fp16, litert-int8."""
    precision: Precision
    targets: list[Target]
    onnx: BoundFile
    """Its file, also where that is a LiteRT model."""
    kept: bool = True
    """False where the quality gate rejected it: the results are kept, the file is deleted."""
    against_fp32: QualityFacts | None
    """None for fp32 itself."""
    against_truth: QualityFacts | None
    """None where the gate's images have no reference."""
    truth_drop_db: float | None
    """How much lower the mean PSNR against the references is than that of fp32."""
    quantization: QuantizationFacts | None = None
    """None where all convolutions of pixels are quantized, or none."""
    ranges: Literal["minmax", "percentile", "entropy"] = "minmax"
    """The range estimator of INT8 activations (`quantization.ranges`)."""
    size: tuple[int, int] | None = None
    """(height, width) of a graph of one size in a bundle for any size; None for the bundle's."""


class RejectionReason(str, Enum):
    """Why the quality gate rejected a configuration."""

    QUALITY = "quality"
    """Its accuracy drop exceeds the tolerance."""
    SPEED = "speed"
    """It is no faster than fp32 on this machine; another processor may differ."""
    UNSUPPORTED = "unsupported"
    """The backend cannot run the graph on this machine."""


class Rejection(StrictDocument):
    """A typed reason for a rejected configuration, with the numbers it was decided on."""

    reason: RejectionReason
    drop_db: float | None = None
    """Accuracy drop against fp32; None where it was not measured or is not a number."""
    drop_is_estimated: bool = False
    """Whether the drop is estimated, by `metrics.estimate_drop_db`: no image has a reference."""
    tolerance_db: float | None = None
    """The largest accuracy drop that is accepted."""
    speedup: float | None = None
    """Time of fp32 on the same backend over this configuration's."""
    minimum_speedup: float | None = None
    message: str | None = None
    """What the backend answered, where it cannot run the graph."""


class Configuration(StrictDocument):
    """A graph as one backend runs it: the quality gate's decision, and its figures."""

    former_keys: ClassVar[dict[str, str]] = {"adopted": "accepted"}

    name: str
    """`backend:precision`, for example `openvino:int8`."""
    backend: BackendName
    precision: Precision
    """The precision that the backend computes in; bf16 runs the fp32 graph."""
    graph: str
    """The name of the graph it runs."""
    against_fp32: QualityFacts | None
    against_truth: QualityFacts | None
    truth_drop_db: float | None
    estimated_drop_db: float | None = None
    """The drop estimated from `against_fp32` where no image has a reference; else None."""
    latency: LatencyFacts | None
    """None where this machine cannot measure it."""
    accepted: bool
    reason: str
    """The decision as text, for people; `rejection` is what programs read."""
    rejection: Rejection | None = None
    """None for an accepted configuration, and in manifests of schema 1."""


class EngineFacts(StrictDocument):
    """A TensorRT engine: its file, its graph, and the TensorRT and GPU it was built for.

    None where unknown: built without a GPU, or by an older mirnet-edge.
    """

    former_keys: ClassVar[dict[str, str]] = {"flavour": "flavor"}

    plan: BoundFile
    graph: str
    flavor: str
    """`tensorrt` or `tensorrt_rtx`."""
    version: str
    """TensorRT's version; no other opens the engine."""
    profiles: list[dict[str, list[int]]] = []
    """Input shapes `min`, `opt`, `max`; in this order in the engine."""
    onnx_sha256: str | None = None
    cuda: str | None = None
    device: str | None = None
    """The GPU's name."""
    capabilities: list[str] = []
    """Compute capabilities it was built for; empty for TensorRT-RTX's portable set."""
    flags: dict[str, int | str] = {}
    """Build settings other than TensorRT's defaults: workspace_mib, level."""
    delivered: dict[str, int] | None = None
    """How many convolutions compute in which precision, by the engine inspector."""

    @model_validator(mode="before")
    @classmethod
    def _of_former_versions(cls, document: Any) -> Any:  # noqa: ANN401  # pydantic's
        # until 2026-11 an engine had one profile
        if isinstance(document, dict) and "profile" in document:
            kept = {name: value for name, value in document.items() if name != "profile"}
            return {**kept, "profiles": [document["profile"]]}
        return document


class WebFormFacts(StrictDocument):
    """The graph that a page of `mirnet web` has, made of the fp32 graph and compared with it."""

    accepted: bool
    """Whether its values are those of the bundle's graph."""
    reason: str
    difference_levels: float | None
    """99th percentile of the difference to the bundle's graph, both in ONNX Runtime, before the
    page rounds; None where unknown."""
    size_bytes: int | None
    """Of the graph; the runtime of the page comes on top."""
    webgpu: bool
    """Whether WebGPU has all operators; WASM always has."""
    missing_operators: tuple[str, ...] = ()


class TimingCache(StrictDocument):
    """TensorRT's timing cache, kept for the next engine build."""

    cache: BoundFile
    origin: str
    """The TensorRT and GPU it is valid for."""


class MachineFacts(StrictDocument):
    """The machine of the measurements."""

    processor: str
    cores: int
    instructions: list[str]
    system: str
    python: str


class GateFacts(StrictDocument):
    """What the quality gate measured on, and its tolerance."""

    max_drop_db: float
    images: int
    references: int
    """How many of the images have a reference."""
    source: str
    crop: tuple[int, int] | None = None
    """(height, width) that images were cut to because the network is heavy; None for whole ones."""
    reach: int | None = None
    """Distance from a cut, in pixels, within which the network's output differs from that of the
    uncut image given the same global context; None where images were not cut."""


class Manifest(StrictDocument):
    """The manifest of a bundle."""

    former_keys: ClassVar[dict[str, str]] = {
        "modes": "configurations",
        "default_mode": "default_configuration",
    }
    former_versions: ClassVar[tuple[int, ...]] = (1,)

    schema_version: Literal[2]
    created: str
    """UTC, ISO 8601."""
    model: ModelFacts
    image: ImageContract
    calibration: CalibrationFacts | None
    gate: GateFacts
    graphs: list[GraphFacts]
    configurations: list[Configuration]
    default_configuration: str
    """The fastest configuration that the quality gate accepted, as measured on this machine."""
    engines: list[EngineFacts] = []
    timing_cache: TimingCache | None = None
    web: WebFormFacts | None = None
    """None where the export was for other targets, and in older manifests."""
    machine: MachineFacts
    tools: dict[str, str]
    notice: str | None = None
    """Terms that came with the weights."""

    def graph(self, name: str) -> GraphFacts:
        """Return the graph of that name.

        Raises:
            BundleError: There is none.
        """
        for graph in self.graphs:
            if graph.name == name:
                return graph
        names = ", ".join(graph.name for graph in self.graphs)
        raise BundleError(f"the bundle has no graph {name!r}; it has {names}. Export again with it")

    def image_of(self, graph: str) -> ImageContract:
        """Return what the graph of that name takes and gives.

        Raises:
            BundleError: There is none.
        """
        size = self.graph(graph).size
        return self.image if size is None else self.image.model_copy(update={"size": size})

    def engine(self, graph: str) -> EngineFacts:
        """Return the engine of that graph.

        Raises:
            BundleError: There is none.
        """
        for engine in self.engines:
            if engine.graph == graph:
                return engine
        raise BundleError(f"the bundle has no engine of {graph!r}; build one: mirnet-engine BUNDLE")

    def configuration(self, name: str) -> Configuration:
        """Return the configuration of that name.

        Raises:
            BundleError: There is none.
        """
        for configuration in self.configurations:
            if configuration.name == name:
                return configuration
        names = ", ".join(configuration.name for configuration in self.configurations)
        raise BundleError(
            f"the bundle has no configuration {name!r}; it has {names}. Export again with it"
        )


FILE_NAME = "manifest.json"


def bind(path: Path) -> BoundFile:
    """Return the manifest's entry of a file in a bundle's folder."""
    return BoundFile(file=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def to_json(manifest: Manifest) -> bytes:
    """Return the text of `manifest.json`."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode()


def read_manifest(bundle: Path) -> Manifest:
    """Return a bundle's manifest, after restoring the folder where an export was killed.

    Raises:
        BundleError: No bundle there, not a manifest, or of another schema.
    """
    recover(bundle)
    path = bundle / FILE_NAME
    if not path.is_file():
        raise BundleError(
            f"{bundle} is not a bundle: expected a folder with {FILE_NAME}. "
            "Make one with mirnet-export --out DIR"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(
            f"{path} is not readable JSON ({error}); export the bundle again"
        ) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int or version not in (*Manifest.former_versions, SCHEMA_VERSION):
        raise BundleError(
            f"{path} has schema version {version!r}; this program reads 1 and {SCHEMA_VERSION}. "
            "Export the bundle again, or use the mirnet-edge that made it"
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}; export the bundle again") from error


def verify_path(bundle: Path, entry: BoundFile) -> Path:
    """Return the path of a bundle's file after verifying its SHA-256.

    Raises:
        BundleError: The file is missing, or its SHA-256 is not the manifest's.
    """
    path = bundle / entry.file
    # no file has a zero byte in its name, and asking for one is a ValueError
    if "\0" in entry.file or path.resolve().parent != bundle.resolve():
        raise BundleError(f"{entry.file!r} lies outside {bundle}; export the bundle again")
    if not path.is_file():
        raise BundleError(
            f"{path} is missing though the manifest names it; export the bundle again"
        )
    found = sha256_of(path)
    if found != entry.sha256:
        raise BundleError(
            f"{path} has changed since the export: sha256 {found[:12]} instead of "
            f"{entry.sha256[:12]}. Export the bundle again"
        )
    return path


def verify_graph(bundle: Path, entry: BoundFile) -> Path:
    """Return the path of a bundle's graph after verifying its SHA-256, and that it is all.

    Raises:
        BundleError: As `verify_path`, or the file would load another one, which no hash in the
            manifest binds.
    """
    path = verify_path(bundle, entry)
    if path.suffix == LITERT_SUFFIX:  # the format has no way to name another file
        return path
    try:
        named = external_files(path.read_bytes())
    except GraphError as error:
        raise BundleError(f"{path} is no ONNX file: {error}") from error
    if named:
        shown = ", ".join(repr(name[:80]) for name in named[:3])
        raise BundleError(
            f"{path} keeps tensors in other files ({shown}), which the manifest does not bind; "
            "expected them in the graph itself. Export the bundle again"
        )
    return path
