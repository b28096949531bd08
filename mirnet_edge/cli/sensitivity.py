"""mirnet-sensitivity: which blocks INT8 harms, and what they would win."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command, parsed_size, stderr

if TYPE_CHECKING:
    from mirnet_edge.export.sensitivity import BlockSensitivity, Sensitivity


def sensitivity(
    weights: Annotated[
        str, typer.Option(help="A .safetensors, .pth or .pt file, or shipped:low-light.")
    ] = "shipped:low-light",
    calibration: Annotated[
        Path | None, typer.Option(help="Images, as mirnet-export --calibration takes them.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the figures and the image; a stopped run goes on.")
    ] = Path("build/sensitivity"),
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of the frame that is timed; else 640x480.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, openvino, onnxruntime or, without times, tensorrt.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Quantize one block at a time; print what each loses and wins, dearest first."""
    from mirnet_edge.export.analysis import SensitivityRequest, analyze_sensitivity

    request = SensitivityRequest(
        weights=weights,
        out=out,
        calibration=calibration,
        size=None if size is None else parsed_size(size, "--size"),
        backend=backend,
    )
    console = stderr()
    with console.status("start") as status:

        def show(what: str) -> None:
            status.update(what)
            if not console.is_terminal:
                console.print(what, highlight=False, soft_wrap=True)

        found = analyze_sensitivity(request, show)
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
    else:
        _show(found, out)


def _show(found: Sensitivity, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("block")
    headings = ("lost\ndB", "won\nms", "dB\nper ms", "dark", "middle\ndB to fp32", "bright")
    for heading in headings:
        table.add_column(heading, justify="right")
    for cost in found.most_sensitive_first():
        table.add_row(*_row(cost))
    console = Console()
    console.print(table)
    for line in (
        "* decides about the whole frame: bundles keep it in float",
        f"{found.setup}; {found.machine.processor}, {found.machine.cores} cores",
        f"Figures and image: {out}",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _row(cost: BlockSensitivity) -> list[str]:
    return [
        f"{cost.block} *" if cost.decides_frame else cost.block,
        f"{cost.drop_db:+.3f}",
        "-" if cost.saved_ms is None else f"{cost.saved_ms:+.2f}",
        f"{cost.db_per_ms:+.4f}",
        *("-" if value is None else f"{value:.1f}" for value in cost.darkness_db.values()),
    ]


main = command(sensitivity)
