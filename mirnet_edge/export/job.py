"""The export job: open, make graphs, quality gate, engines, manifest.

Each finished stage is recorded in the folder that becomes the bundle (`stages`), so that an export
that was killed is resumed by the same command.
"""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge import manifest
from mirnet_edge.dependencies import available, missing_text, require
from mirnet_edge.errors import MissingDependencyError, OptionError
from mirnet_edge.export.gate import GateCandidate, find_fastest, restore_all, run_gate
from mirnet_edge.export.graphs import make_graphs
from mirnet_edge.export.kits import write_kit
from mirnet_edge.export.litert_models import make_litert_models
from mirnet_edge.export.onnx_graph import make_context_anchored_contract
from mirnet_edge.export.stages import OnStep, key_of, resume_stages
from mirnet_edge.export.workspace import SamplePlan, make_workspace, open_sources, plan_samples
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import EngineFacts, ImageContract, Manifest, RejectionReason, bind
from mirnet_edge.runtime import machine
from mirnet_edge.runtime.backends import all_backends
from mirnet_edge.runtime.tensorrt.build import profiles_for
from mirnet_edge.runtime.tensorrt.build_process import BuildRequest, build_apart
from mirnet_edge.runtime.tensorrt.library import FLAVORS, HOW_TO_INSTALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from mirnet_edge.export.graphs import GraphFile
    from mirnet_edge.export.litert_models import LiteRtModels
    from mirnet_edge.export.workspace import ExportOptions, Workspace
    from mirnet_edge.manifest import Configuration, GraphFacts, WebFormFacts
    from mirnet_edge.runtime.backends import Backend


@dataclass(frozen=True)
class ExportResult:
    """A finished bundle, its manifest, and the precisions that were rejected."""

    bundle: Path
    manifest: Manifest
    parity_db: float
    """PSNR of the fp32 graph against the network, before rounding."""
    rejected: tuple[str, ...]
    """The requested graphs that no backend may use."""
    omitted: tuple[str, ...] = ()
    """Of the forms that an export for all targets has: those left out, each with the reason."""


def export_bundle(
    options: ExportOptions,
    on_stage: Callable[[str], None] = lambda what: None,
    on_step: OnStep = lambda done, total: None,
) -> ExportResult:
    """Export weights to a bundle: ONNX graphs, quantized, accepted or rejected by measurement.

    Until the new bundle is complete nothing of a former one in `options.out` is touched; a kill at
    any moment leaves it usable. The next call with the same options, weights and images goes on
    after the last finished stage.

    Args:
        options: What to export.
        on_stage: Called with a few words as each stage begins.
        on_step: Called with the steps done, and those of all, within a stage that has steps.

    Raises:
        MirnetEdgeError: The weights, the calibration set or the output folder are not usable.
    """
    require("torch", "exporting weights")
    require("onnx", "exporting weights")
    if options.litert and not available("litert_torch"):
        raise MissingDependencyError(missing_text("--format litert", "litert_torch"))
    _check_replaceable(options.out)
    sources = open_sources(options, on_stage)
    key = key_of(options, sources.loaded.sha256, sources.images)
    with resume_stages(options.out, key) as log:
        if log.resumed:
            on_stage(f"go on after {log.resumed[-1]}, where an export was stopped")
        plan = log.run(
            "plan", SamplePlan,
            lambda: plan_samples(sources.loaded, sources.image, sources.images, on_stage),
        )  # fmt: skip
        workspace = make_workspace(
            sources, plan, log.folder, recall=log.run, on_stage=on_stage, on_step=on_step
        )
        _save_weights(workspace)
        if options.anchored:
            workspace = _anchor_context(workspace)
        files, parity_db = make_graphs(workspace)
        for name in options.kits:
            shutil.rmtree(log.folder / name, ignore_errors=True)  # of a killed export
            write_kit(workspace, name)
        reference = _read_reference(workspace, files, log.path("reference.npz"))
        models = make_litert_models(workspace)
        configurations = _measure_all(workspace, files, models, reference)
        requested = {one.name for one in [*files, *(models.files if options.litert else [])]}
        files += models.files
        graphs = [_describe_graph(workspace, file, configurations) for file in files]
        engines = build_engines(workspace, graphs, configurations)
        written = _describe_bundle(workspace, graphs, configurations, engines)
        write_atomically(log.folder / manifest.FILE_NAME, manifest.to_json(written))
    rejected = tuple(
        graph.name
        for graph in graphs
        if graph.name in requested and not _is_accepted(graph, configurations)
    )
    omitted = () if models.omitted is None else (f"litert: not written; {models.omitted}",)
    return ExportResult(options.out, written, parity_db, rejected, omitted)


def _check_replaceable(out: Path) -> None:
    """Refuse a folder that is no bundle: it would be replaced with all that is in it."""
    if out.is_dir() and any(out.iterdir()) and not (out / manifest.FILE_NAME).is_file():
        raise OptionError(
            f"--out {out} holds files that are no bundle; expected a bundle to replace, or an "
            "empty or new folder. Choose another"
        )


def _save_weights(workspace: Workspace) -> None:
    from mirnet_edge import checkpoints

    checkpoints.save(workspace.loaded.model, workspace.weights, workspace.loaded.card)


def _anchor_context(workspace: Workspace) -> Workspace:
    """Return the workspace with the contract of context-anchored graphs."""

    def anchor() -> ImageContract:
        workspace.on_stage("anchor the global context and measure how far a cut reaches")
        return make_context_anchored_contract(
            workspace.image, workspace.loaded.model, workspace.images
        )

    return replace(workspace, image=workspace.recall("context", ImageContract, anchor))


def _read_reference(
    workspace: Workspace, files: Sequence[GraphFile], kept: Path
) -> list[np.ndarray]:
    """Return the reference's outputs for the evaluation images; they are restored once."""
    import numpy as np

    samples, reference = workspace.images.evaluation, list_candidates(workspace, files)[0]

    def restore() -> None:
        workspace.on_stage(f"{reference.name}: restore {len(samples)} images")
        outputs = restore_all(reference, samples, workspace.on_step)
        np.savez(kept, *outputs)

    name = kept.relative_to(workspace.folder).as_posix()
    workspace.recall("reference", type(None), restore, [name])
    with np.load(kept) as stored:
        return [stored[f"arr_{place}"] for place in range(len(samples))]


def _measure_all(
    workspace: Workspace,
    files: Sequence[GraphFile],
    models: LiteRtModels,
    reference: Sequence[np.ndarray],
) -> list[Configuration]:
    """Return accepted and rejected configurations of the graphs and of the LiteRT models.

    Models of their own size are compared with the reference on images of that size.
    """
    if not models.have_own_size:
        return apply_quality_gate(workspace, [*files, *models.files], reference)
    found = apply_quality_gate(workspace, files, reference)
    sized, names = models.workspace, {one.name for one in models.files}
    first, *others = list_candidates(sized, [files[0], *models.files])
    measured = run_gate(
        [first, *(one for one in others if one.graph in names)],
        sized.images.evaluation,
        max_drop_db=sized.options.max_drop_db,
        timing_frame=sized.timing_frame,
        timing_s=sized.plan.timing_s,
        recall=lambda name, *how: workspace.recall(f"{name}, at one size", *how),
        on_stage=sized.on_stage,
        on_step=sized.on_step,
    )
    return [*found, *measured[1:]]


def apply_quality_gate(
    workspace: Workspace, files: Sequence[GraphFile], reference: Sequence[np.ndarray]
) -> list[Configuration]:
    """Measure the graphs on every backend and return accepted and rejected configurations.

    Args:
        workspace: Of the export.
        files: The graphs.
        reference: The outputs of the first candidate.
    """
    return run_gate(
        list_candidates(workspace, files),
        workspace.images.evaluation,
        reference,
        max_drop_db=workspace.options.max_drop_db,
        timing_frame=workspace.timing_frame,
        timing_s=workspace.plan.timing_s,
        recall=workspace.recall,
        on_stage=workspace.on_stage,
        on_step=workspace.on_step,
    )


def list_candidates(workspace: Workspace, files: Sequence[GraphFile]) -> list[GateCandidate]:
    """Return the configurations to measure, the reference (ONNX Runtime in fp32) first.

    Those of the CPU backends in fp32 are always among them, so that every bundle runs anywhere.
    """
    found: list[GateCandidate] = []
    for backend in all_backends():
        if backend.target != "tensorrt" or workspace.options.target in (backend.target, "all"):
            found += _candidates_of(backend, workspace, files)
    return found


def _candidates_of(
    backend: Backend, workspace: Workspace, files: Sequence[GraphFile]
) -> Iterator[GateCandidate]:
    """Yield the configurations of one backend; none where it would have to run and cannot."""
    is_timed = backend.engine_runner is None
    if backend.added_here == "named" or (is_timed and backend.machine_obstacle() is not None):
        return
    for file in files:
        if backend.target not in file.targets:
            continue
        path = workspace.weights if backend.runs_weights else workspace.path(file.file)
        for precision in (file.precision, *backend.derived_precisions.get(file.precision, ())):
            if backend.supports(precision):
                name = f"{backend.name}:{precision}"
                runner = backend.runner(path, workspace.image, name=name, precision=precision)
                yield GateCandidate(backend.name, precision, file.name, runner, timed=is_timed)


def build_engines(
    workspace: Workspace, graphs: Sequence[GraphFacts], configurations: Sequence[Configuration]
) -> list[EngineFacts]:
    """Build a TensorRT engine of every accepted graph, where a TensorRT is installed."""
    if workspace.options.target not in ("tensorrt", "all"):
        return []
    if not any(available(package) for package in FLAVORS):
        workspace.on_stage(f"no TensorRT is installed, so no engine is built: {HOW_TO_INSTALL}")
        return []
    accepted = {one.graph for one in configurations if one.backend == "tensorrt" and one.accepted}
    engines = []
    for graph in graphs:
        if graph.name in accepted:
            plan = Path(graph.onnx.file).with_suffix(".plan").name
            build = partial(_build_engine, workspace, graph, plan)
            engines.append(workspace.recall(f"engine of {graph.name}", EngineFacts, build, [plan]))
    return engines


def _build_engine(workspace: Workspace, graph: GraphFacts, plan: str) -> EngineFacts:
    workspace.on_stage(f"build the TensorRT engine of {graph.name}")
    order = BuildRequest(
        onnx=workspace.path(graph.onnx.file), plan=workspace.path(plan),
        profiles=profiles_for(workspace.image), graph=graph.name, precision=graph.precision,
    )  # fmt: skip
    return build_apart(order, workspace.on_stage)


def _is_accepted(graph: GraphFacts, configurations: Sequence[Configuration]) -> bool:
    return any(one.accepted for one in configurations if one.graph == graph.name)


def _describe_graph(
    workspace: Workspace, file: GraphFile, configurations: Sequence[Configuration]
) -> GraphFacts:
    """Return the manifest's entry of a graph, and delete its file where none may use it."""
    own = [one for one in configurations if one.graph == file.name]
    best = max(own, key=lambda one: (one.accepted, one.against_fp32 is not None))
    path = workspace.path(file.file)
    entry = bind(path)
    # slower or unsupported here may be otherwise on another processor; accuracy is the same
    kept = any(
        one.rejection is None or one.rejection.reason is not RejectionReason.QUALITY for one in own
    )
    if not kept:
        path.unlink()
    return manifest.GraphFacts(
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
        size=file.size,
    )


def _describe_bundle(
    workspace: Workspace,
    graphs: list[GraphFacts],
    configurations: list[Configuration],
    engines: list[EngineFacts],
) -> Manifest:
    images, options = workspace.images, workspace.options
    own_size = {graph.name for graph in graphs if graph.size is not None}
    calibration = manifest.CalibrationFacts(
        source=images.source,
        images=workspace.calibration_images,
        sha256=images.sha256,
        note=images.note,
    )
    return Manifest(
        schema_version=manifest.SCHEMA_VERSION,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        model=_describe_model(workspace),
        image=workspace.image,
        calibration=calibration if options.is_calibrated else None,
        gate=manifest.GateFacts(
            max_drop_db=options.max_drop_db,
            images=len(images.evaluation),
            source=images.source,
            references=sum(sample.reference is not None for sample in images.evaluation),
            crop=workspace.plan.largest if workspace.plan.reach is not None else None,
            reach=workspace.plan.reach,
        ),
        graphs=graphs,
        configurations=configurations,
        default_configuration=find_fastest(
            [one for one in configurations if one.graph not in own_size]
        ).name,
        engines=engines,
        web=_describe_web_form(workspace, graphs),
        machine=machine.describe(),
        tools=machine.tool_versions(),
        notice=workspace.loaded.notice,
    )


def _describe_web_form(workspace: Workspace, graphs: list[GraphFacts]) -> WebFormFacts | None:
    """Return the verdict on the page of the bundle, where it is exported for all targets."""
    fp32 = next((graph for graph in graphs if graph.name == "fp32" and graph.kept), None)
    if workspace.options.target != "all" or fp32 is None:
        return None
    from mirnet_edge.export.web.page import describe_web_form

    workspace.on_stage("compare the graph of the web page")
    return describe_web_form((workspace.folder / fp32.onnx.file).read_bytes(), workspace.image)


def _describe_model(workspace: Workspace) -> manifest.ModelFacts:
    from mirnet_edge.models.macs import count_macs, count_parameters

    loaded, source = workspace.loaded, workspace.options.weights
    return manifest.ModelFacts(
        architecture=loaded.architecture,
        config=loaded.card.config,
        task=loaded.card.task,
        weights=bind(workspace.weights),
        # the name alone: a bundle that travels tells nothing of the disk it came from
        source=source if source.startswith("shipped:") else Path(source).name,
        parameters=count_parameters(loaded.model),
        macs_640x480=count_macs(loaded.model, 480, 640),
    )
