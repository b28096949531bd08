"""mirnet-plan: what a network will do on a device, before anything is built."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirnet_edge.cli.application import command, parsed_size

if TYPE_CHECKING:
    from mirnet_edge.planning import DevicePlan, NetworkCost


def plan(
    weights: Annotated[
        str,
        typer.Argument(help="A file, shipped:NAME, a bundle, or mirnet or mirnet-v2."),
    ] = "shipped:low-light",
    device: Annotated[
        list[str] | None,
        typer.Option(help="As orin-nano-super; may be repeated; all, or here. Default: all."),
    ] = None,
    size: Annotated[str, typer.Option(help="Of the frames, WIDTHxHEIGHT.")] = "640x360",
    fps: Annotated[float, typer.Option(help="The frame rate that is wanted.")] = 25.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the prediction as JSON.")] = False,
) -> None:
    """Predict rate and memory on a device, say whether it will do, and what to take instead.

    All figures are predicted from the graph and a table of devices; none is measured, except the
    rates of this processor with --device here.
    """
    from mirnet_edge.planning import plan_network as predicted

    height, width = parsed_size(size, "--size")
    cost, answers = predicted(weights, device or ["all"], height, width, fps)
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


main = command(plan)
