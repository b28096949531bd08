"""`mirnet plan`: predicted frame rate and memory of a network on a device, before a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirnet_edge.cli.application import command
from mirnet_edge.cli.arguments import (
    DEVICE,
    SIZE_METAVAR,
    check_positive,
    check_weights,
    parse_size,
)

if TYPE_CHECKING:
    from mirnet_edge.planning import DevicePlan, NetworkCost

_FULL_NETWORKS = ("mirnet", "mirnet-v2")


def plan(
    weights: Annotated[
        str,
        typer.Argument(
            help="A weights file, shipped:NAME, a bundle's folder, or a full-size network of the "
            "papers: mirnet or mirnet-v2."
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
        str, typer.Option(metavar=SIZE_METAVAR, help="Frame size.", rich_help_panel=DEVICE)
    ] = "640x360",
    fps: Annotated[float, typer.Option(help="Wanted frame rate.", rich_help_panel=DEVICE)] = 25.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the prediction as JSON.")] = False,
) -> None:
    """Predict frame rate and memory on a device, whether they suffice, and what to use instead.

    All figures are predicted from the graph and a table of devices; none is measured, except the
    rates of this processor with --device here.
    """
    height, width = parse_size(size, "--size")
    check_positive(fps, "--fps")
    if weights not in _FULL_NETWORKS and not Path(weights).is_dir():
        check_weights(weights)
    from mirnet_edge.planning import plan_network

    cost, answers = plan_network(weights, device or ["all"], height, width, fps)
    if as_json:
        print(json.dumps(_document(weights, cost, answers, fps), indent=1))
        return
    print(
        f"{weights}, {width}x{height}: {cost.macs / 1e9:.3g} GMACs, {cost.weights / 1e6:.3g} M "
        f"weights, {4 * cost.values(fused=True) / 2**20:.0f} to "
        f"{4 * cost.values(fused=False) / 2**20:.0f} MiB moved per frame in fp32"
    )
    for answer in answers:
        print(f"predicted: {answer.sentence}, {answer.best.precision}")
        if answer.instead:
            print(f"           {answer.instead}")


def _document(
    weights: str, cost: NetworkCost, answers: list[DevicePlan], fps: float
) -> dict[str, Any]:
    return {
        "predicted": True,
        "weights": weights,
        "width": cost.width,
        "height": cost.height,
        "fps_wanted": fps,
        "macs": cost.macs,
        "numbers_moved": [cost.values(fused=True), cost.values(fused=False)],
        "devices": [
            {
                "device": answer.device.name,
                "source": answer.device.source or "measured here",
                "verdict": answer.sentence,
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
            for answer in answers
        ],
    }


main = command(
    plan,
    examples=(
        "plan --device orin-nano-super --size 1280x720",
        "plan mirnet-v2 --device here --fps 30",
    ),
)
