"""Add LiteRT models to a bundle: where they are asked for, and as one of all targets.

A LiteRT model has one size. In a bundle for any size its models are of the size that configurations
are timed at, and are measured on images of that size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import available, missing_text
from mirnet_edge.errors import GraphError
from mirnet_edge.export.graphs import GraphFile
from mirnet_edge.export.workspace import fit_calibration_set, make_timing_frame
from mirnet_edge.images.contract import size_text

if TYPE_CHECKING:
    from mirnet_edge.export.workspace import Workspace

_FP32 = GraphFile("litert-fp32", "fp32", ("litert",))
_FP16 = GraphFile("litert-fp16", "fp16", ("litert",))
_INT8 = GraphFile("litert-int8", "int8", ("litert",))


@dataclass(frozen=True)
class LiteRtModels:
    """The LiteRT models of an export, or why there are none."""

    files: list[GraphFile]
    workspace: Workspace
    """With the contract, images and timing frame that the models take."""
    omitted: str | None = None
    """Why all targets have none of them, in one line; None where they were not wanted."""

    @property
    def have_own_size(self) -> bool:
        """Return whether the other graphs of the bundle take frames of any size."""
        return any(file.size is not None for file in self.files)


def make_litert_models(workspace: Workspace) -> LiteRtModels:
    """Write LiteRT models in the precisions of the options; fp32 among them, to compare with.

    As one of all targets they are left out where they cannot be made; that is told, and the export
    goes on.

    Raises:
        GraphError: They were asked for, and the network cannot be converted.
    """
    options = workspace.options
    if not options.litert:
        if options.target != "all":
            return LiteRtModels([], workspace)
        obstacle = _find_obstacle(workspace)
        if obstacle is not None:
            return LiteRtModels([], workspace, obstacle)
    sized = _at_one_size(workspace)
    try:
        return LiteRtModels(_write_models(workspace, sized), sized)
    except GraphError as error:
        if options.litert:
            raise
        for file in (_FP32, _FP16, _INT8):
            workspace.path(file.file).unlink(missing_ok=True)
        return LiteRtModels([], workspace, str(error))


def _find_obstacle(workspace: Workspace) -> str | None:
    """Return in one line why the models are left out, None where they can be made."""
    if workspace.image.vectors:
        return "its models take frames alone; export without --anchored"
    if not available("litert_torch"):
        return missing_text("LiteRT", "litert_torch")
    if workspace.plan.is_heavy and workspace.image.size is None:
        return "the network is heavy; --format litert --size WIDTHxHEIGHT converts it"
    return None


def _at_one_size(workspace: Workspace) -> Workspace:
    """Return the workspace for graphs of one size: the timing frame's where it is for any size."""
    if workspace.image.size is not None:
        return workspace
    image = workspace.image.model_copy(update={"size": workspace.timing_frame.shape[1:3]})
    images = fit_calibration_set(workspace.images, image, workspace.plan)
    return replace(
        workspace,
        image=image,
        images=images,
        timing_frame=make_timing_frame(images, image, workspace.plan),
    )


def _write_models(workspace: Workspace, sized: Workspace) -> list[GraphFile]:
    from mirnet_edge.export.litert import halve_litert, quantize_litert, write_litert

    image = sized.image
    own_size = None if workspace.image.size is not None else image.size
    fp32 = sized.path(_FP32.file)

    def make(file: GraphFile, write: partial[None], what: str) -> GraphFile:
        def run() -> GraphFile:
            sized.on_stage(what)
            write()
            return replace(file, size=own_size)

        made: GraphFile = sized.recall(file.name, GraphFile, run, [file.file])
        return made

    size = size_text(*image.size) if image.size is not None else ""
    convert = partial(write_litert, sized.loaded.model, fp32, image)
    files = [make(_FP32, convert, f"convert to LiteRT at {size}")]
    if sized.options.fp16:
        halve = partial(halve_litert, fp32, sized.path(_FP16.file))
        files.append(make(_FP16, halve, "convert to LiteRT with weights in fp16"))
    if sized.options.int8:
        quantize = partial(
            quantize_litert, fp32, sized.path(_INT8.file), sized.samples,
            colors_in_float=image.scale > 1,
        )  # fmt: skip
        what = f"quantize for LiteRT on {sized.calibration_text}"
        files.append(make(_INT8, quantize, what))
    return files
