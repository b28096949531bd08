"""`mirnet export`: weights in, a measured bundle out."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mirnet_edge.cli.application import command, stderr
from mirnet_edge.cli.arguments import (
    CALIBRATION_METAVAR,
    DEVICE,
    OUTPUT,
    QUALITY,
    RUNTIME_HELP,
    SHIPPED,
    SIZE_METAVAR,
    WEIGHTS_METAVAR,
    WeightsKeyOption,
    check_calibration,
    check_output_folder,
    check_weights,
    parse_size,
)
from mirnet_edge.cli.presets import PRESET_FORMER_OPTIONS, DevicePresetOption
from mirnet_edge.cli.progress import StageProgress
from mirnet_edge.errors import OptionError, PrecisionRejected

if TYPE_CHECKING:
    from mirnet_edge.export.job import ExportResult
    from mirnet_edge.export.workspace import ExportOptions
    from mirnet_edge.manifest import Configuration, GateFacts, Manifest, QualityFacts

_PRECISION = "Precision"


class ExportFormat(str, Enum):
    """What `--format` adds to ONNX; typer takes no list of a Literal."""

    LITERT = "litert"
    HAILO = "hailo"
    RKNN = "rknn"


def export(
    weights: Annotated[
        str,
        typer.Option(
            metavar=WEIGHTS_METAVAR,
            help="A .safetensors, .pth or .pt file, weights of Keras (.h5, .keras, a SavedModel), "
            "or weights of this package.",
        ),
    ] = "shipped:low-light",
    weights_key: WeightsKeyOption = None,
    out: Annotated[Path, typer.Option(help="The bundle's folder; replaced as a whole.")] = Path(
        "build/bundle"
    ),
    fp16: Annotated[
        bool,
        typer.Option("--fp16", help="Add an fp16 graph for TensorRT.", rich_help_panel=_PRECISION),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Add INT8 graphs.", rich_help_panel=_PRECISION)
    ] = False,
    fp8: Annotated[
        bool,
        typer.Option(
            "--fp8",
            help="Add FP8 graphs for TensorRT: compute capability 8.9 and later, not Orin.",
            rich_help_panel=_PRECISION,
        ),
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar=CALIBRATION_METAVAR,
            help="Images for INT8 and FP8 calibration: a folder of images as your camera takes "
            "them or with pairs.csv, or a calibration preset: its file, or night, indoor-camera, "
            "video, old-prints.",
            show_default="built-in images, for shipped weights",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="Choose by measurement which blocks are INT8, and by their latency here which "
            "convolutions.",
            rich_help_panel=_PRECISION,
        ),
    ] = False,
    target_fps: Annotated[
        float | None,
        typer.Option(
            help="With --mixed: the smallest accuracy drop that reaches this frame rate here.",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            help="Accuracy drop against fp32 that a precision may have, in dB.",
            rich_help_panel=QUALITY,
        ),
    ] = 0.1,
    size: Annotated[
        str | None,
        typer.Option(metavar=SIZE_METAVAR, help="Fixed frame size.", show_default="any size"),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Any frame size, as without --size.")
    ] = False,
    io: Annotated[
        Literal["uint8", "float"],
        typer.Option(help="Type of input and output. uint8: NHWC frames. float: NCHW in [0, 1]."),
    ] = "uint8",
    target: Annotated[
        Literal["cpu", "tensorrt", "all"],
        typer.Option(help="Devices to write graphs for.", rich_help_panel=DEVICE),
    ] = "all",
    formats: Annotated[
        list[ExportFormat] | None,
        typer.Option(
            "--format",
            help="Also write this, of one --size. litert: models for phones and ARM boards, in "
            "the same precisions, measured here (without --size, --target all has them of "
            "640x480 where their converter is installed). hailo, rknn: a kit for that compiler "
            "(ONNX, calibration images, script), not compiled here.",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    preset: DevicePresetOption = None,
    anchored: Annotated[
        bool,
        typer.Option(
            "--anchored",
            help="Write graphs with global context vectors as inputs and outputs: for tiles "
            "without seams and video without flicker.",
        ),
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(help="Also write a model repository for Triton here.", rich_help_panel=OUTPUT),
    ] = None,
    openvino_ir: Annotated[
        Path | None, typer.Option(help="Also write OpenVINO IR here.", rich_help_panel=OUTPUT)
    ] = None,
    ort: Annotated[
        Path | None,
        typer.Option(help="Also write ONNX Runtime's format here.", rich_help_panel=OUTPUT),
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page here that restores in the browser: mirnet web DIR serves it.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tgz", help=f"Of --web: {RUNTIME_HELP}", rich_help_panel=OUTPUT),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the manifest as JSON.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """Export weights to a bundle of ONNX graphs: quantized, measured, and accepted or rejected.

    Exit code 3: a precision that was requested was rejected by the quality gate; the table says
    why, and the bundle holds the others.
    """
    if fp8 and preset is not None:  # which has set the defaults
        _check_fp8(preset)
    if size is not None and dynamic:
        raise OptionError("--size and --dynamic exclude each other; give one of them")
    frame_size = None if size is None else parse_size(size, "--size")
    check_weights(weights)
    check_calibration(calibration)
    check_output_folder(out)
    _check_page(web, runtime)
    from mirnet_edge.export.workspace import ExportOptions

    options = ExportOptions(
        weights=weights,
        weights_key=weights_key,
        out=out,
        fp16=fp16,
        int8=int8,
        fp8=fp8,
        kits=tuple(one.value for one in formats or () if one is not ExportFormat.LITERT),
        litert=ExportFormat.LITERT in (formats or ()),
        size=frame_size,
        io=io,
        calibration=calibration,
        max_drop_db=max_drop,
        mixed=mixed,
        target_fps=target_fps,
        target=target,
        anchored=anchored,
    )
    exported = _with_progress(options)
    _write_formats(out, triton, openvino_ir, ort)
    if web is not None:
        _write_page(out, web, weights, runtime)
    if as_json:
        sys.stdout.write(exported.manifest.model_dump_json(indent=1) + "\n")
    else:
        _show(exported)
    if exported.rejected:
        raise PrecisionRejected(
            f"rejected: {', '.join(exported.rejected)}; the bundle in {exported.bundle} is usable, "
            f"its default is {exported.manifest.default_configuration}"
        )


def _check_fp8(preset: str) -> None:
    """Refuse FP8 for a device that has none, before anything is exported.

    Raises:
        OptionError: The preset's device has no FP8.
    """
    from mirnet_edge.devices import DEVICES
    from mirnet_edge.export.presets import read_preset
    from mirnet_edge.runtime.tensorrt.library import find_fp8_obstacle

    device = DEVICES.get(read_preset(preset).device or "")
    if device is not None and device.capability is not None:
        obstacle = find_fp8_obstacle(device.capability)
        if obstacle is not None:
            raise OptionError(f"--fp8: {device.title}: {obstacle}. Leave --fp8 out")


def _write_formats(
    bundle: Path, triton: Path | None, openvino_ir: Path | None, ort: Path | None
) -> None:
    from mirnet_edge.export.formats import write_openvino_ir, write_ort, write_repository

    wanted = ((triton, write_repository), (openvino_ir, write_openvino_ir), (ort, write_ort))
    for folder, write in wanted:
        if folder is not None:
            write(bundle, folder)


def _check_page(web: Path | None, runtime: Path | None) -> None:
    """Bring what a page needs before an export that takes minutes."""
    if web is None:
        if runtime is not None:
            raise OptionError(f"--runtime {runtime} is for --web; give --web DIR too")
        return
    check_output_folder(web)
    from mirnet_edge.export.web.runtime import find_archive

    find_archive(runtime)


def _write_page(bundle: Path, web: Path, weights: str, runtime: Path | None) -> None:
    from mirnet_edge.export.web.page import write_page

    name = weights if weights.startswith(SHIPPED) else Path(weights).name
    page = write_page(bundle, web, name=name, runtime=runtime)
    stderr().print(page.summary, highlight=False, markup=False, soft_wrap=True)


def _with_progress(options: ExportOptions) -> ExportResult:
    from mirnet_edge.export.job import export_bundle

    with StageProgress.shown() as display:
        try:
            return export_bundle(options, display.on_stage, display.on_step)
        except KeyboardInterrupt as error:
            former = f"the former bundle in {options.out} is as it was"
            kept = former if options.out.exists() else f"nothing was written to {options.out}"
            raise KeyboardInterrupt(
                f"interrupted; {kept}, and the same command goes on after the last finished stage"
            ) from error


def _show(exported: ExportResult) -> None:
    from rich.console import Console
    from rich.table import Table

    manifest = exported.manifest
    console = Console()
    # narrow enough for a terminal of 80 columns; the reasons stand below
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("configuration")
    for heading in (
        "to fp32\ndB",
        "to truth\ndB",
        "drop\ndB",
        "p50\nms",
        "p95\nms",
        "time\nx fp32",
    ):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for mode in manifest.configurations:
        table.add_row(*_row(mode, manifest))
    console.print(table)
    for line in _notes(exported):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _row(mode: Configuration, manifest: Manifest) -> list[str]:
    time = mode.latency
    return [
        f"{mode.name} *" if mode.name == manifest.default_configuration else mode.name,
        _decibel(mode.against_fp32),
        _decibel(mode.against_truth),
        _drop(mode),
        f"{time.p50_ms:.1f}" if time else "-",
        f"{time.p95_ms:.1f}" if time else "-",
        f"{time.ratio_to_fp32:.2f}" if time else "-",
        "[green]accepted[/]" if mode.accepted else "[yellow]rejected[/]",
    ]


def _drop(mode: Configuration) -> str:
    measured, estimated = mode.truth_drop_db, mode.estimated_drop_db
    if measured is not None:
        return f"{round(measured, 3) + 0.0:+.3f}"
    return "-" if estimated is None else f"~{round(estimated, 3) + 0.0:+.3f}"


def _decibel(quality: QualityFacts | None) -> str:
    if quality is None:
        return "-"
    return "same" if quality.mean_db is None else f"{quality.mean_db:.2f}"


def _describe_cuts(gate: GateFacts) -> list[str]:
    """Return what the size of the evaluated images means, where they were cut for their cost."""
    if gate.crop is None or gate.reach is None:
        return []
    from mirnet_edge.images.contract import size_text

    inner = min(gate.crop) - 2 * gate.reach
    seen = (
        f"the inner {inner}x{inner} pixels see all that they see in a whole image"
        if inner > 0
        else "every pixel sees the border of its cut, more than in a whole image"
    )
    return [
        f"The network is heavy, so images were cut to {size_text(*gate.crop)}: it sees "
        f"{gate.reach} pixels far (measured), and {seen}; global context is that of the cut"
    ]


def _notes(exported: ExportResult) -> list[str]:
    manifest = exported.manifest
    frame = next(mode.latency for mode in manifest.configurations if mode.latency)
    lines = [f"{mode.name} {mode.reason}" for mode in manifest.configurations if not mode.accepted]
    if any(mode.estimated_drop_db is not None for mode in manifest.configurations):
        lines.append(
            "~ estimated from the difference to fp32: the images have no reference; --calibration "
            "with pairs measures it"
        )
    if any(mode.latency is None for mode in manifest.configurations):
        lines.append("- not measured: needs the device")
    lines += [
        f"* default. Times: one {frame.width}x{frame.height} frame, {manifest.machine.processor}, "
        f"{manifest.machine.cores} cores, {frame.runs} interleaved runs",
        f"Measured on {manifest.gate.images} images ({manifest.gate.source}), "
        f"{manifest.gate.references} with a reference; graph against network "
        f"{exported.parity_db:.0f} dB",
    ]
    lines += _describe_cuts(manifest.gate)
    lines += [
        f"{graph.name}: {graph.quantization.reason}"
        for graph in manifest.graphs
        if graph.quantization
    ]
    if manifest.calibration:
        lines.append(
            f"Calibrated on {manifest.calibration.images} images: {manifest.calibration.note}"
        )
    lines += _describe_litert(manifest)
    lines += exported.omitted
    if manifest.web:
        verdict = "accepted" if manifest.web.accepted else "rejected"
        lines.append(f"web: {verdict}; {manifest.web.reason}")
    if manifest.notice:
        lines.append(manifest.notice)
    lines.append(f"Bundle: {exported.bundle}")
    return lines


def _describe_litert(manifest: Manifest) -> list[str]:
    """Return size and verdicts of the LiteRT models of a bundle for any size."""
    from mirnet_edge.images.contract import size_text

    models = {one.name: one for one in manifest.graphs if one.size is not None}
    if not models:
        return []
    size = next(one.size for one in models.values() if one.size)
    verdicts = [
        f"{one.precision} {'accepted' if one.accepted else 'rejected'} "
        f"({models[one.graph].onnx.size_bytes / 1024:.0f} KiB)"
        for one in manifest.configurations
        if one.graph in models
    ]
    return [
        f"litert: {', '.join(verdicts)}; of {size_text(*size)} alone (--format litert --size for "
        "another), run by --backend litert"
    ]


main = command(
    export,
    examples=(
        "export --int8",
        "export --format hailo --size 640x480 --out build/hailo",
        "export --format litert --size 640x480 --int8 --out build/phone",
        "export --weights my.pth --int8 --calibration my_images --out build/mine",
    ),
    former_options=PRESET_FORMER_OPTIONS,
)
