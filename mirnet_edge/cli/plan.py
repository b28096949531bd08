"""`mirnet plan`: predicted frame rate and memory of a network on a device, before a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirnet_edge.checkpoints import FULL_NETWORKS
from mirnet_edge.cli.application import command
from mirnet_edge.cli.arguments import (
    DEVICE,
    SIZE_METAVAR,
    check_positive,
    check_weights,
    parse_size,
)

if TYPE_CHECKING:
    from mirnet_edge.planning import DevicePlan, NetworkPlan


def plan(
    weights: Annotated[
        str,
        typer.Argument(
            help="A weights file, shipped:NAME, a bundle's folder, or a full-size network of the "
            f"papers or the Keras examples: {', '.join(FULL_NETWORKS)}."
        ),
    ] = "shipped:low-light",
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="A device's name, as orin-nano-super; all; or here, measured in a second. "
            "Repeatable.",
            show_default="all",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            metavar=f"{SIZE_METAVAR}[,...]",
            help="Frame sizes. One: a sentence per device. Several: a table.",
            rich_help_panel=DEVICE,
        ),
    ] = "854x480,1280x720,1920x1080",
    fps: Annotated[float, typer.Option(help="Wanted frame rate.", rich_help_panel=DEVICE)] = 25.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the prediction as JSON.")] = False,
) -> None:
    """Predict which devices restore live video, their frame rate and memory, and what to use.

    All figures are predicted from the graph and a table of devices; none is measured, except the
    rates of this processor with --device here.
    """
    sizes = [parse_size(one, "--size") for one in size.split(",")]
    check_positive(fps, "--fps")
    if weights not in FULL_NETWORKS and not Path(weights).is_dir():
        check_weights(weights)
    from mirnet_edge.dependencies import require
    from mirnet_edge.devices import choose_devices

    devices = choose_devices(device or ["all"])
    require("torch", "predicting from weights")
    from mirnet_edge.planning import plan_network

    plans = plan_network(weights, devices, sizes, fps)
    documents = [_document(one) for one in plans]
    if as_json:
        print(json.dumps(documents[0] if len(plans) == 1 else {"plans": documents}, indent=1))
    elif len(plans) == 1:
        _print_sentences(plans[0])
    else:
        _print_table(plans)


def _print_sentences(plan: NetworkPlan) -> None:
    from mirnet_edge.runtime.tensorrt.library import find_fp8_obstacle

    cost = plan.cost
    print(
        f"{plan.weights}, {cost.width}x{cost.height}: {cost.macs / 1e9:.3g} GMACs, "
        f"{cost.weights / 1e6:.3g} M weights, {4 * cost.values(fused=True) / 2**20:.0f} to "
        f"{4 * cost.values(fused=False) / 2**20:.0f} MiB moved per frame in fp32"
    )
    for answer in plan.devices:
        print(f"predicted: {answer.sentence}, {answer.best.precision}")
        capability = answer.device.capability
        fp8 = find_fp8_obstacle(capability) if capability and len(plan.devices) == 1 else None
        for line in (
            answer.instead,
            fp8,
            "" if answer.device.runs_no_engine else answer.device.note,
        ):
            if line:
                print(f"           {line}")


def _print_table(plans: list[NetworkPlan]) -> None:
    """Print one row per device: whether each size runs live, the predicted rates, their basis."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("device", no_wrap=True)
    for one in plans:
        table.add_column(f"{one.cost.width}x{one.cost.height}", no_wrap=True)
    table.add_column("rates", no_wrap=True)
    for answers in zip(*(one.devices for one in plans), strict=True):
        device = answers[0].device
        table.add_row(device.name, *map(_cell, answers), device.basis)
    console = Console()
    console.print(
        f"{plans[0].weights} at {plans[0].fps:g} fps: live? Predicted, in fps, from slow to fast "
        "kernels",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(table)
    for line in _LEGEND:
        console.print(line, highlight=False, soft_wrap=True)


_LEGEND = (
    "yes: at the slow end too. maybe: at the fast end alone. no: at neither, or it does not fit. "
    "*: in INT8; otherwise in fp16 on GPUs and fp32 on processors.",
    "How sure: nine networks on one processor took 0.7 to 1.4 times the middle of the range "
    "(benchmarks/reports/plan.md); GPUs and boards were never measured. --device here measures "
    "this processor's rates.",
)


def _cell(answer: DevicePlan) -> str:
    from mirnet_edge.planning import rate_text

    if answer.device.runs_no_engine:
        return f"{answer.outcome} (CPU only)"
    best = answer.best
    rates = f"{rate_text(best.worst_fps)}-{rate_text(best.best_fps)}"
    return f"{answer.outcome} {rates}{'*' if best.precision == 'int8' else ''}"


def _document(plan: NetworkPlan) -> dict[str, Any]:
    cost = plan.cost
    return {
        "predicted": True,
        "weights": plan.weights,
        "width": cost.width,
        "height": cost.height,
        "fps_wanted": plan.fps,
        "macs": cost.macs,
        "numbers_moved": [cost.values(fused=True), cost.values(fused=False)],
        "devices": [
            {
                "device": answer.device.name,
                "source": answer.device.source or "measured here",
                "basis": answer.device.basis,
                "note": answer.device.note or None,
                "compute_capability": answer.device.capability,
                "verdict": answer.sentence,
                "live": answer.outcome,
                "can": answer.best.can,
                "instead": answer.instead or None,
                "needed_tflops": round(answer.best.needed_tflops, 3),
                "precisions": {
                    one.precision: {
                        "fps": [round(one.worst_fps, 2), round(one.best_fps, 2)],
                        "ms": [round(one.best_ms, 3), round(one.worst_ms, 3)],
                        "memory_mib": round(one.memory_mib),
                    }
                    for one in answer.predictions
                },
            }
            for answer in plan.devices
        ],
    }


main = command(
    plan,
    examples=(
        "plan",
        "plan --device orin-nano-super --size 1280x720",
        "plan mirnet-v2 --device here --fps 30",
    ),
)
