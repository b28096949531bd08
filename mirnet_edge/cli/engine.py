"""`mirnet engine`: build a bundle's TensorRT engines on the machine that will run them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mirnet_edge.cli.application import command, stderr
from mirnet_edge.cli.arguments import DEVICE, check_bundle
from mirnet_edge.cli.presets import PRESET_FORMER_OPTIONS, DevicePresetOption
from mirnet_edge.errors import BundleError
from mirnet_edge.runtime.shipped import find_bundle, is_shipped

if TYPE_CHECKING:
    from mirnet_edge.runtime.tensorrt.bundle_engines import DlaReport

_LOW_MEMORY_WORKSPACE_MIB, _LOW_MEMORY_LEVEL = 512, 2
_BUILD = "Build"


def engine(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, written by mirnet export.")],
    graph: Annotated[
        list[str] | None,
        typer.Option(help="Only this graph, for example fp16. Repeatable.", show_default="all"),
    ] = None,
    profiles: Annotated[
        str | None,
        typer.Option(
            help="Frame sizes of static optimization profiles, as 640x360,1280x720, or ladder.",
            show_default="those of the former engine, else one for any size",
            rich_help_panel=_BUILD,
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            help="Memory a layer may use, in MiB.",
            show_default="from the free memory",
            rich_help_panel=_BUILD,
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=5,
            help="Optimization level; a higher one takes longer to build.",
            show_default="TensorRT's",
            rich_help_panel=_BUILD,
        ),
    ] = None,
    low_memory: Annotated[
        bool,
        typer.Option(
            "--low-memory",
            help="For boards of 8 GB: 512 MiB of workspace, level 2.",
            rich_help_panel=_BUILD,
        ),
    ] = False,
    capabilities: Annotated[
        str | None,
        typer.Option(
            help="TensorRT-RTX: build for these compute capabilities, as 8.6,8.9.",
            show_default="this GPU's",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    flavor: Annotated[
        Literal["tensorrt", "tensorrt_rtx"] | None,
        typer.Option(
            help="TensorRT library.", show_default="the first found", rich_help_panel=DEVICE
        ),
    ] = None,
    dla_report: Annotated[
        bool,
        typer.Option(
            "--dla-report",
            help="Build nothing; predict from the graphs what Orin's DLA could run of them.",
            rich_help_panel=DEVICE,
        ),
    ] = False,
    preset: DevicePresetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was built as JSON.")] = False,
) -> None:
    """Build a bundle's TensorRT engines here, from its graphs; former engines are replaced.

    The bundle stays usable throughout: where an engine cannot be built, the former one is kept.
    """
    del preset  # it has set the defaults
    check_bundle(bundle)
    if is_shipped(find_bundle(bundle)):
        raise BundleError(
            f"{bundle} is part of the package and for processors; expected a folder with graphs "
            f"for TensorRT. Export one, and build its engines: mirnet export --weights {bundle} "
            "--fp16 --int8 --out DIR"
        )
    from mirnet_edge.runtime.tensorrt.build import BuildSettings, sizes_from_text
    from mirnet_edge.runtime.tensorrt.bundle_engines import build_engines, dla_reports

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
        capabilities=tuple(capabilities.split(",")) if capabilities else (),
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


main = command(
    engine,
    examples=(
        "engine build/bundle --preset orin-nano-super",
        "engine build/bundle --profiles 640x360,1280x720",
    ),
    former_options={
        **PRESET_FORMER_OPTIONS,
        "--cards": "--capabilities",
        "--flavour": "--flavor",
    },
)
