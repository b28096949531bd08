"""The main job: weights → ONNX → quantize → legalize → gate → bundle."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mirnet_edge.calibration.builtin import builtin_set
from mirnet_edge.calibration.sets import CalibrationSet, read_set
from mirnet_edge.dependencies import require
from mirnet_edge.errors import CalibrationError, OptionError
from mirnet_edge.export.gate import fastest, judge
from mirnet_edge.export.graphs import GraphFile, make_graphs
from mirnet_edge.export.modes import candidates_for, engines_for
from mirnet_edge.export.samples import prepared, timing_frame
from mirnet_edge.files import replaced_folder, write_atomically
from mirnet_edge.manifest import (
    FILE_NAME,
    CalibrationFacts,
    GateFacts,
    Graph,
    ImageContract,
    Manifest,
    Mode,
    ModelFacts,
    bind,
    to_json,
)
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.checkpoints import Loaded

Target = Literal["cpu", "tensorrt", "all"]
_WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export and how to judge it.

    Raises:
        OptionError: A value makes no sense, or INT8 has nothing to calibrate on.
    """

    weights: str = "shipped:low-light"
    out: Path
    fp16: bool = False
    int8: bool = False
    size: tuple[int, int] | None = None
    """(height, width) of a graph with fixed shape; None for any size."""
    io: Literal["uint8", "float"] = "uint8"
    calibration: Path | None = None
    max_drop_db: float = 0.1
    target: Target = "all"
    anchored: bool = False
    """Graphs that also take and give the frame's pooled vectors: `models.anchoring`."""
    mixed: bool = False
    """Choose by measurement which blocks INT8 graphs quantize."""
    target_fps: float | None = None
    """With `mixed`: the least lossy choice that is so fast, not the fastest that may pass."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.size is not None and min(self.size) < 1:
            height, width = self.size
            raise OptionError(f"--size must be positive, found {width}x{height}; try 640x480")
        if not self.max_drop_db >= 0.0:
            raise OptionError(f"--max-drop must be 0 dB or more, found {self.max_drop_db:g}")
        if self.target not in ("cpu", "tensorrt", "all"):
            raise OptionError(f"--target must be cpu, tensorrt or all, found {self.target!r}")
        if self.io not in ("uint8", "float"):
            raise OptionError(f"--io must be uint8 or float, found {self.io!r}")
        if self.mixed and not self.int8:
            raise OptionError("--mixed chooses what INT8 graphs quantize; add --int8")
        if self.target_fps is not None and not (self.mixed and self.target_fps > 0.0):
            raise OptionError(
                f"--target-fps is a number above 0 and goes with --mixed, found {self.target_fps:g}"
            )
        if self.int8 and self.calibration is None and not self.weights.startswith("shipped:"):
            raise OptionError(
                f"--int8 needs pictures to set its ranges on, and {self.weights} has none: "
                "give --calibration DIR with pictures as the camera takes them"
            )


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    bundle: Path
    manifest: Manifest
    parity_db: float
    """Of the fp32 graph against the network, before rounding."""
    rejected: tuple[str, ...]
    """The precisions that were asked for and adopted by no backend of their target."""


def export_bundle(
    options: ExportOptions, on_stage: Callable[[str], None] = lambda what: None
) -> Exported:
    """Make a bundle: open the weights, export, quantize, legalize, judge, write.

    Until everything is there nothing of a former bundle in `options.out` is touched; a kill at
    any moment leaves it usable.

    Args:
        options: What to export.
        on_stage: Told in a few words what is being done.

    Raises:
        MirnetEdgeError: The weights, the calibration set or the output folder are not usable.
    """
    require("torch", "exporting weights")
    require("onnx", "exporting weights")
    from mirnet_edge import checkpoints
    from mirnet_edge.export.anchors import anchored_contract

    _check_replaceable(options.out)
    on_stage(f"open {options.weights}")
    loaded = checkpoints.load(options.weights)
    image = image_contract(loaded, options)
    on_stage("read the calibration and gate pictures")
    pictures = prepared(pictures_for(options, loaded, image), image, loaded)
    with replaced_folder(options.out) as folder:
        checkpoints.save(loaded.model, folder / _WEIGHTS_FILE, loaded.card)
        if options.anchored:
            on_stage("anchor the network and measure how far a cut reaches")
            image = anchored_contract(image, loaded.model, pictures)
        timed = timing_frame(pictures, image, loaded)
        files, parity_db = make_graphs(
            loaded.model, folder, image, pictures, options, on_stage, timed
        )
        candidates = candidates_for(files, folder, image, options.target, folder / _WEIGHTS_FILE)
        modes = judge(
            candidates,
            pictures.judging,
            max_drop_db=options.max_drop_db,
            timing_frame=timed,
            on_progress=on_stage,
        )
        graphs = [_described(file, modes, folder) for file in files]
        engines = engines_for(graphs, modes, folder, image, options.target, on_stage)
        manifest = Manifest(
            schema_version=1,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            model=_model_facts(loaded, folder, options.weights),
            image=image,
            calibration=_calibration_facts(pictures) if options.int8 else None,
            gate=_gate_facts(pictures, options.max_drop_db),
            graphs=graphs,
            modes=modes,
            default_mode=fastest(modes).name,
            engines=engines,
            machine=machine.describe(),
            tools=machine.tool_versions(),
            notice=loaded.notice,
        )
        write_atomically(folder / FILE_NAME, to_json(manifest))
    return Exported(options.out, manifest, parity_db, _rejected(graphs, modes))


def pictures_for(options: ExportOptions, loaded: Loaded, image: ImageContract) -> CalibrationSet:
    """Return the pictures that calibrate and judge: the user's, or those of the weights' task."""
    if options.calibration is not None:
        return read_set(options.calibration, scale=image.scale)
    # weights that nobody gave a task are judged as what this package is for first
    task = loaded.card.task if loaded.card.task != "unknown" else "low-light"
    found = builtin_set(task)
    first = found.judging[0]
    if first.reference is not None and len(first.reference) != image.scale * len(first.frame):
        raise CalibrationError(
            f"the built-in set for {task} does not fit a network that enlarges {image.scale} "
            "times; give pictures of your own with references of that size: --calibration DIR"
        )
    return found


def _check_replaceable(out: Path) -> None:
    """Refuse a folder that is no bundle: it would be replaced with all that is in it."""
    if out.is_dir() and any(out.iterdir()) and not (out / FILE_NAME).is_file():
        raise OptionError(
            f"--out {out} holds files that are no bundle; expected a bundle to replace, or an "
            "empty or new folder. Choose another"
        )


def image_contract(loaded: Loaded, options: ExportOptions) -> ImageContract:
    """Return what the graphs of an export will take and give."""
    multiple = int(loaded.model.multiple)  # type: ignore[arg-type]  # every network states it
    size = options.size
    if size is not None:
        size = (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)
    scale = int(getattr(loaded.model.config, "scale", 1))
    return ImageContract(io=options.io, multiple=multiple, size=size, scale=scale)


def _described(file: GraphFile, modes: list[Mode], folder: Path) -> Graph:
    """Return the manifest's entry of a graph, and delete its file where no mode may use it."""
    mine = [mode for mode in modes if mode.graph == file.name]
    best = max(mine, key=lambda mode: mode.adopted)
    entry = bind(folder / file.file)
    # slower here may be faster on another processor; not good enough is so everywhere
    kept = any(mode.adopted or "not faster" in mode.reason for mode in mine)
    if not kept:
        (folder / file.file).unlink()
    return Graph(
        name=file.name,
        precision=file.precision,
        targets=list(file.targets),
        onnx=entry,
        kept=kept,
        against_fp32=None if file.precision == "fp32" else best.against_fp32,
        against_truth=best.against_truth,
        truth_drop_db=best.truth_drop_db,
        quantization=file.quantization,
        ranges=file.ranges,
    )


def _rejected(graphs: list[Graph], modes: list[Mode]) -> tuple[str, ...]:
    return tuple(
        graph.name
        for graph in graphs
        if not any(mode.adopted for mode in modes if mode.graph == graph.name)
    )


def _model_facts(loaded: Loaded, folder: Path, source: str) -> ModelFacts:
    from mirnet_edge.models.macs import count_macs, count_parameters

    return ModelFacts(
        architecture=loaded.architecture,
        config=loaded.card.config,
        task=loaded.card.task,
        weights=bind(folder / _WEIGHTS_FILE),
        # the name alone: a bundle that travels tells nothing of the disk it came from
        source=source if source.startswith("shipped:") else Path(source).name,
        parameters=count_parameters(loaded.model),
        macs_640x480=count_macs(loaded.model, 480, 640),
    )


def _calibration_facts(pictures: CalibrationSet) -> CalibrationFacts:
    return CalibrationFacts(
        source=pictures.source,
        images=len(pictures.calibrating),
        sha256=pictures.sha256,
        note=pictures.note,
    )


def _gate_facts(pictures: CalibrationSet, max_drop_db: float) -> GateFacts:
    return GateFacts(
        max_drop_db=max_drop_db,
        images=len(pictures.judging),
        source=pictures.source,
        references=sum(sample.reference is not None for sample in pictures.judging),
    )
