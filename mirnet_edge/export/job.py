"""The export job: weights, ONNX graphs, quantization, quality gate, bundle."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.calibration.sets import CalibrationSet, builtin_set, read_set
from mirnet_edge.dependencies import available, require
from mirnet_edge.errors import CalibrationError, OptionError
from mirnet_edge.export.gate import GateCandidate, fastest, run_gate
from mirnet_edge.export.graphs import (
    ExportOptions,
    GraphFile,
    fit_calibration_set,
    make_graphs,
    timing_frame,
)
from mirnet_edge.files import replaced_folder, write_atomically
from mirnet_edge.manifest import (
    FILE_NAME,
    CalibrationFacts,
    Configuration,
    GateFacts,
    GraphFacts,
    ImageContract,
    Manifest,
    ModelFacts,
    bind,
    to_json,
)
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.backends import all_backends
from mirnet_edge.runtime.tensorrt.build import profiles_for
from mirnet_edge.runtime.tensorrt.build_process import BuildRequest, build_apart
from mirnet_edge.runtime.tensorrt.library import FLAVORS, HOW_TO_GET_ONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mirnet_edge.checkpoints import LoadedCheckpoint
    from mirnet_edge.export.graphs import GraphFile, Target
    from mirnet_edge.manifest import Configuration, EngineFacts
    from mirnet_edge.runtime.backends import Backend


def candidates_for(
    files: Sequence[GraphFile],
    folder: Path,
    image: ImageContract,
    target: Target,
    weights: Path,
) -> list[GateCandidate]:
    """Return the modes to judge, the reference (ONNX Runtime in fp32) first.

    The fp32 modes of the CPU backends are always among them, so that every bundle runs anywhere.
    """
    found: list[GateCandidate] = []
    for backend in all_backends():
        if backend.target == "cpu" or target in (backend.target, "all"):
            found += _candidates_of(backend, files, folder, image, weights)
    return found


def _candidates_of(
    backend: Backend,
    files: Sequence[GraphFile],
    folder: Path,
    image: ImageContract,
    weights: Path,
) -> Iterator[GateCandidate]:
    """Yield the configurations of one backend; none where it would have to run and cannot."""
    is_timed = backend.engine_runner is None
    if is_timed and not backend.is_installed:
        return
    for file in files:
        if backend.target not in file.targets:
            continue
        path = weights if backend.runs_weights else folder / file.file
        for precision in (file.precision, *backend.derived_precisions.get(file.precision, ())):
            if backend.supports(precision):
                name = f"{backend.name}:{precision}"
                runner = backend.runner(path, image, name=name, precision=precision)
                yield GateCandidate(backend.name, precision, file.name, runner, timed=is_timed)


def engines_for(
    graphs: Sequence[GraphFacts],
    modes: Sequence[Configuration],
    folder: Path,
    image: ImageContract,
    target: Target,
    on_stage: Callable[[str], None],
) -> list[EngineFacts]:
    """Build a plan of every accepted TensorRT mode, where a TensorRT is installed."""
    if target not in ("tensorrt", "all"):
        return []
    if not any(available(package) for package in FLAVORS):
        on_stage(f"no TensorRT here, so no plan: {HOW_TO_GET_ONE}")
        return []
    accepted = {mode.graph for mode in modes if mode.backend == "tensorrt" and mode.accepted}
    engines = []
    for graph in graphs:
        if graph.name in accepted:
            on_stage(f"build the TensorRT plan of {graph.name}")
            source = folder / graph.onnx.file
            order = BuildRequest(
                onnx=source, plan=source.with_suffix(".plan"), profiles=profiles_for(image),
                graph=graph.name, precision=graph.precision,
            )  # fmt: skip
            engines.append(build_apart(order, on_stage))
    return engines


_WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class ExportResult:
    """What an export came to."""

    bundle: Path
    manifest: Manifest
    parity_db: float
    """Of the fp32 graph against the network, before rounding."""
    rejected: tuple[str, ...]
    """The precisions that were asked for and accepted by no backend of their target."""


def export_bundle(
    options: ExportOptions, on_stage: Callable[[str], None] = lambda what: None
) -> ExportResult:
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
    from mirnet_edge.export.onnx_graph import context_anchored_contract

    _check_replaceable(options.out)
    on_stage(f"open {options.weights}")
    loaded = checkpoints.load(options.weights)
    image = image_contract(loaded, options)
    on_stage("read the calibration and gate images")
    images = fit_calibration_set(calibration_set_for(options, loaded, image), image, loaded)
    with replaced_folder(options.out) as folder:
        checkpoints.save(loaded.model, folder / _WEIGHTS_FILE, loaded.card)
        if options.anchored:
            on_stage("anchor the network and measure how far a cut reaches")
            image = context_anchored_contract(image, loaded.model, images)
        timed = timing_frame(images, image, loaded)
        files, parity_db = make_graphs(
            loaded.model, folder, image, images, options, on_stage, timed
        )
        candidates = candidates_for(files, folder, image, options.target, folder / _WEIGHTS_FILE)
        modes = run_gate(
            candidates,
            images.judging,
            max_drop_db=options.max_drop_db,
            timing_frame=timed,
            on_progress=on_stage,
        )
        graphs = [_graph_entry(file, modes, folder) for file in files]
        engines = engines_for(graphs, modes, folder, image, options.target, on_stage)
        manifest = Manifest(
            schema_version=2,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            model=_model_facts(loaded, folder, options.weights),
            image=image,
            calibration=_calibration_facts(images) if options.int8 else None,
            gate=_gate_facts(images, options.max_drop_db),
            graphs=graphs,
            configurations=modes,
            default_configuration=fastest(modes).name,
            engines=engines,
            machine=machine.describe(),
            tools=machine.tool_versions(),
            notice=loaded.notice,
        )
        write_atomically(folder / FILE_NAME, to_json(manifest))
    return ExportResult(options.out, manifest, parity_db, _rejected_precisions(graphs, modes))


def calibration_set_for(
    options: ExportOptions, loaded: LoadedCheckpoint, image: ImageContract
) -> CalibrationSet:
    """Return the images that calibrate and judge: the user's, or those of the weights' task."""
    if options.calibration is not None:
        return read_set(options.calibration, scale=image.scale)
    # weights that nobody gave a task are judged as what this package is for first
    task = loaded.card.task if loaded.card.task != "unknown" else "low-light"
    found = builtin_set(task)
    first = found.judging[0]
    if first.reference is not None and len(first.reference) != image.scale * len(first.frame):
        raise CalibrationError(
            f"the built-in set for {task} does not fit a network that enlarges {image.scale} "
            "times; give images of your own with references of that size: --calibration DIR"
        )
    return found


def _check_replaceable(out: Path) -> None:
    """Refuse a folder that is no bundle: it would be replaced with all that is in it."""
    if out.is_dir() and any(out.iterdir()) and not (out / FILE_NAME).is_file():
        raise OptionError(
            f"--out {out} holds files that are no bundle; expected a bundle to replace, or an "
            "empty or new folder. Choose another"
        )


def image_contract(loaded: LoadedCheckpoint, options: ExportOptions) -> ImageContract:
    """Return what the graphs of an export will take and give."""
    multiple = int(loaded.model.multiple)  # type: ignore[arg-type]  # every network states it
    size = options.size
    if size is not None:
        size = (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)
    scale = int(getattr(loaded.model.config, "scale", 1))
    return ImageContract(io=options.io, multiple=multiple, size=size, scale=scale)


def _graph_entry(file: GraphFile, modes: list[Configuration], folder: Path) -> GraphFacts:
    """Return the manifest's entry of a graph, and delete its file where no mode may use it."""
    mine = [mode for mode in modes if mode.graph == file.name]
    best = max(mine, key=lambda mode: mode.accepted)
    entry = bind(folder / file.file)
    # slower here may be faster on another processor; not good enough is so everywhere
    kept = any(mode.accepted or "not faster" in mode.reason for mode in mine)
    if not kept:
        (folder / file.file).unlink()
    return GraphFacts(
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


def _rejected_precisions(graphs: list[GraphFacts], modes: list[Configuration]) -> tuple[str, ...]:
    return tuple(
        graph.name
        for graph in graphs
        if not any(mode.accepted for mode in modes if mode.graph == graph.name)
    )


def _model_facts(loaded: LoadedCheckpoint, folder: Path, source: str) -> ModelFacts:
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


def _calibration_facts(images: CalibrationSet) -> CalibrationFacts:
    return CalibrationFacts(
        source=images.source,
        images=len(images.calibrating),
        sha256=images.sha256,
        note=images.note,
    )


def _gate_facts(images: CalibrationSet, max_drop_db: float) -> GateFacts:
    return GateFacts(
        max_drop_db=max_drop_db,
        images=len(images.judging),
        source=images.source,
        references=sum(sample.reference is not None for sample in images.judging),
    )
