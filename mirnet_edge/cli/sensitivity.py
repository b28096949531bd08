"""`mirnet sensitivity`: accuracy drop and speedup of INT8, block by block."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command, stderr
from mirnet_edge.cli.arguments import (
    BACKENDS_HELP,
    CALIBRATION_METAVAR,
    SIZE_METAVAR,
    SPEED,
    WEIGHTS_METAVAR,
    WeightsKeyOption,
    check_calibration,
    check_weights,
    parse_size,
)
from mirnet_edge.runtime.backends import find_backend

if TYPE_CHECKING:
    from mirnet_edge.export.sensitivity import BlockSensitivity, Sensitivity


def sensitivity(
    weights: Annotated[
        str,
        typer.Option(
            metavar=WEIGHTS_METAVAR,
            help="A .safetensors, .pth or .pt file, weights of Keras (.h5, .keras, a SavedModel), "
            "or weights of this package.",
        ),
    ] = "shipped:low-light",
    weights_key: WeightsKeyOption = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar=CALIBRATION_METAVAR,
            help="Images, as mirnet export --calibration takes them.",
            show_default="built-in images, for shipped weights",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results and the chart; a stopped run is resumed."),
    ] = Path("build/sensitivity"),
    size: Annotated[
        str | None,
        typer.Option(
            metavar=SIZE_METAVAR,
            help="Size of the timed frame.",
            show_default="640x480",
            rich_help_panel=SPEED,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help=f"{BACKENDS_HELP}; engines are simulated, not timed.",
            rich_help_panel=SPEED,
        ),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Quantize one block at a time; print accuracy drop and speedup, most sensitive first."""
    frame_size = None if size is None else parse_size(size, "--size")
    check_weights(weights)
    check_calibration(calibration)
    if backend != "auto":
        find_backend(backend)
    from mirnet_edge.export.analysis import SensitivityRequest, analyze_sensitivity

    request = SensitivityRequest(
        weights=weights,
        weights_key=weights_key,
        out=out,
        calibration=calibration,
        size=frame_size,
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
    headings = ("drop\ndB", "saved\nms", "dB\nper ms", "dark", "middle\ndB to fp32", "bright")
    for heading in headings:
        table.add_column(heading, justify="right")
    for cost in found.most_sensitive_first():
        table.add_row(*_row(cost))
    console = Console()
    console.print(table)
    for line in (
        "* acts on the whole frame: bundles keep it in float",
        f"{found.setup}; {found.machine.processor}, {found.machine.cores} cores",
        f"Results and chart: {out}",
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


main = command(
    sensitivity,
    examples=("sensitivity", "sensitivity --weights my.pth --calibration my_images"),
)
