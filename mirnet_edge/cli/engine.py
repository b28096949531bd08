"""mirnet-engine: build the TensorRT plans of a bundle on the machine that is to run them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirnet_edge.cli.application import command, stderr
from mirnet_edge.cli.preset import (  # noqa: TC001  # typer reads the annotations
    FormerPreset,
    Preset,
)

if TYPE_CHECKING:
    from mirnet_edge.runtime.tensorrt.bundle_engines import DlaReport

_LOW_MEMORY_WORKSPACE_MIB, _LOW_MEMORY_LEVEL = 512, 2


def engine(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, made by mirnet-export.")],
    graph: Annotated[
        list[str] | None, typer.Option(help="Only this graph, as fp16; may be repeated.")
    ] = None,
    profiles: Annotated[
        str | None,
        typer.Option(
            help="Sizes of static profiles, as 640x360,1280x720, or ladder. "
            "Default: those of the former plan, else one for any size."
        ),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(help="Memory a layer may use, in MiB. Default: from what is free.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Optimization; higher takes longer.")
    ] = None,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="For boards of 8 GB: 512 MiB, level 2.")
    ] = False,
    cards: Annotated[
        str | None,
        typer.Option(help="TensorRT-RTX: build for these compute capabilities, as 8.6,8.9."),
    ] = None,
    flavor: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt_rtx; the first found if left out.")
    ] = None,
    dla_report: Annotated[
        bool,
        typer.Option(
            "--dla-report",
            help="Build nothing; predict from the graphs what Orin's DLA could run of them.",
        ),
    ] = False,
    preset: Preset = None,
    recipe: FormerPreset = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was built as JSON.")] = False,
) -> None:
    """Build a bundle's TensorRT plans here, from the graphs in it. A former plan is replaced.

    The bundle stays usable throughout: a plan that cannot be built leaves the former one.
    """
    from mirnet_edge.runtime.tensorrt.build import BuildSettings, sizes_from_text
    from mirnet_edge.runtime.tensorrt.bundle_engines import build_engines, dla_reports

    del preset, recipe  # they have set the defaults
    if dla_report:
        reports = dla_reports(bundle, graph or ())
        if as_json:
            print(json.dumps([_document(one) for one in reports], indent=1))
            return
        print("\n".join(one.text for one in reports))
        return
    if low_memory:
        workspace = workspace or _LOW_MEMORY_WORKSPACE_MIB
        level = _LOW_MEMORY_LEVEL if level is None else level
    settings = BuildSettings(
        workspace_mib=workspace,
        level=level,
        capabilities=tuple(cards.split(",")) if cards else (),
    )
    console, started = stderr(), time.monotonic()

    def show(what: str) -> None:
        elapsed = time.monotonic() - started
        console.print(f"{elapsed:6.1f} s  {what}", highlight=False, markup=False, soft_wrap=True)

    built = build_engines(
        bundle,
        graphs=graph or (),
        sizes=None if profiles is None else sizes_from_text(profiles),
        settings=settings,
        flavor=flavor,
        on_stage=show,
    )
    if as_json:
        print(json.dumps([facts.model_dump(mode="json") for facts in built], indent=1))
        return
    for facts in built:
        where = facts.device or ", ".join(facts.capabilities) or "Ampere and later"
        print(
            f"{bundle / facts.plan.file}  {facts.plan.size_bytes / 2**20:.1f} MiB  "
            f"{facts.flavor} {facts.version}  for {where}"
        )


def _document(report: DlaReport) -> dict[str, Any]:
    return {"predicted": True, "suited": report.is_suited, **asdict(report)}


main = command(engine)
