"""`mirnet live`: a camera, a stream or a file, restored live."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mirnet_edge.cli.application import command, stderr
from mirnet_edge.cli.arguments import (
    BACKENDS_HELP,
    INPUT,
    OUTPUT,
    SHIPPED,
    SIZE_METAVAR,
    SPEED,
    check_bundle,
    check_file,
    check_positive,
    check_source,
    check_weights,
    parse_size,
)
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.live.pipeline import Live, LiveStatistics
    from mirnet_edge.video.live.publishing import Publisher
    from mirnet_edge.video.live.sinks import Sink
    from mirnet_edge.video.restorer import Restorer
    from mirnet_edge.video.web.camera import BrowserSource

_BROWSER = "browser"
_PAGE = "Web page"


def live(
    source: Annotated[
        str,
        typer.Option(
            help="A camera's number, a file, rtsp://..., 'gst: PIPELINE', csi, rpicam, synthetic, "
            "or browser: the camera of the viewer of --display web.",
            rich_help_panel=INPUT,
        ),
    ] = "0",
    size: Annotated[
        str | None,
        typer.Option(
            metavar=SIZE_METAVAR,
            help="Frame size.",
            show_default="the source's",
            rich_help_panel=INPUT,
        ),
    ] = None,
    bundle: Annotated[
        str,
        typer.Option(
            metavar="DIR|shipped:NAME",
            help="A bundle's folder, written by mirnet export, or weights of this package, "
            "exported on first use.",
        ),
    ] = "shipped:low-light",
    display: Annotated[
        Literal["window", "web", "none"],
        typer.Option(help="Where to show frames.", rich_help_panel=OUTPUT),
    ] = "window",
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write the shown frames to this file (.mp4, .mkv, .mov).", rich_help_panel=OUTPUT
        ),
    ] = None,
    snapshots: Annotated[
        Path | None,
        typer.Option(
            help="Folder for saved frames.", show_default="this folder", rich_help_panel=OUTPUT
        ),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="Publish the shown frames to an RTSP server: rtsp://HOST:8554/NAME. A server that "
            "cannot be reached is tried again.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    virtual_camera: Annotated[
        str | None,
        typer.Option(
            help="Offer the shown frames to other programs as a camera: auto, or /dev/videoN of "
            "v4l2loopback.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(
            help="Write frame rates, frame ages and stage times to this JSON file.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address of the page of --display web; other than 127.0.0.1 needs its token.",
            rich_help_panel=_PAGE,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port of the page; 0 for any free one.", rich_help_panel=_PAGE
        ),
    ] = 8321,
    certificate: Annotated[
        Path | None,
        typer.Option(help="Certificate of the page, PEM: serves https.", rich_help_panel=_PAGE),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="The certificate's private key, PEM, if it is in another file.",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help=f"{BACKENDS_HELP}.", rich_help_panel=SPEED),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="auto, fp32, bf16, fp16, int8, int8+bf16 or int8+fp16.", rich_help_panel=SPEED
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads to use.", show_default="the backend's choice", rich_help_panel=SPEED
        ),
    ] = None,
    target_fps: Annotated[
        float | None,
        typer.Option(
            help="Frame rate to hold: faster configurations and smaller frames are used as needed.",
            rich_help_panel=SPEED,
        ),
    ] = None,
) -> None:
    """Restore a camera's frames live: always the newest frame, never a queue.

    Without a camera try --source synthetic. Ctrl-C, q or the end of a file end it; recorded files
    are closed and playable then.
    """
    frame_size = None if size is None else parse_size(size, "--size")
    check_positive(target_fps, "--target-fps")
    if source == _BROWSER and display != "web":
        raise OptionError(f"--source browser needs --display web, found --display {display}")
    check_source(source)
    check_file(certificate, "--certificate", "a PEM file")
    check_file(key, "--key", "a PEM file")
    if bundle.startswith(SHIPPED):
        check_weights(bundle)
    else:
        check_bundle(Path(bundle))
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
    from mirnet_edge.video.live.sources import open_source

    # errors of the camera, the display and files come before a bundle is exported
    controls = Controls(recording=record is not None)
    camera = _browser_camera(controls) if source == _BROWSER else None
    opened = camera or open_source(source, size=frame_size)
    sinks = _sinks(controls, display, record, snapshots)
    if virtual_camera is not None:
        sinks.append(_virtual_camera(virtual_camera))
    publisher = None if stream is None else _publisher(stream)
    if publisher is not None:
        sinks.append(publisher)
    if display == "web":
        sinks.insert(0, _page(controls, host, port, camera, certificate, key))
    restorer = _restorer(bundle, backend, precision, threads, target_fps)
    reconnect_policy = (
        ReconnectPolicy(blocked_s=math.inf) if camera else None
    )  # until somebody opens the page
    running = Live(opened, restorer, sinks, controls=controls, reconnect_policy=reconnect_policy)
    try:
        _run(running, quiet=display != "none")
    finally:
        statistics = running.statistics()
        if stats is not None:
            statistics.write_json(stats)
    _print_statistics(statistics)
    if publisher is not None:
        stderr().print(publisher.summary(), highlight=False, markup=False, soft_wrap=True)


def _sinks(
    controls: Controls, display: str, record: Path | None, snapshots: Path | None
) -> list[Sink]:
    from mirnet_edge.video.live.sinks import DetachedSink, Recorder, Snapshots
    from mirnet_edge.video.live.window import Window, check_display

    console = stderr()
    sinks: list[Sink] = []
    if record is not None:
        sinks.append(DetachedSink(Recorder(record)))
    sinks.append(
        DetachedSink(Snapshots(snapshots or Path(), lambda path: console.print(f"saved {path}")))
    )
    if display == "window":
        check_display()
        sinks.insert(0, Window(controls))
    return sinks


def _virtual_camera(device: str) -> Sink:
    from mirnet_edge.video.live.sinks import DetachedSink, VirtualCamera

    return DetachedSink(VirtualCamera(device))


def _publisher(url: str) -> Publisher:
    from mirnet_edge.video.live.publishing import Publisher

    console = stderr()
    return Publisher(
        url,
        on_change=lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )


def _browser_camera(controls: Controls) -> BrowserSource:
    from mirnet_edge.video.web.camera import BrowserSource

    return BrowserSource(controls)


def _page(
    controls: Controls,
    host: str,
    port: int,
    camera: BrowserSource | None,
    certificate: Path | None,
    key: Path | None,
) -> Sink:
    from mirnet_edge.video.web.server import WebSink

    def print_addresses(addresses: tuple[str, ...]) -> None:
        lines = [f"open {address}" for address in addresses]
        if page.https_advice:
            lines.append(f"browsers give their camera to https only: {page.https_advice}")
        for line in lines:
            stderr().print(line, highlight=False, markup=False, soft_wrap=True)

    page = WebSink(
        controls, host=host, port=port, camera=camera, certificate=certificate, key=key,
        on_open=print_addresses,
    )  # fmt: skip
    return page


def _restorer(
    bundle: str,
    backend: str,
    precision: str,
    threads: int | None,
    target_fps: float | None,
) -> Restorer:
    from mirnet_edge.export.shipped import find_bundle
    from mirnet_edge.video.restorer import bundle_restorer

    console = stderr()
    folder = find_bundle(
        bundle, lambda what: console.print(what, highlight=False, markup=False, soft_wrap=True)
    )
    if target_fps is not None:
        from mirnet_edge.video.live.budget import budgeted_restorer

        return budgeted_restorer(folder, target_fps, backend, precision, threads=threads)
    return bundle_restorer(folder, backend, precision, threads=threads)


def _run(running: Live, *, quiet: bool) -> None:
    """Run until the source ends or Ctrl-C; without a display print the rates in one line."""
    from mirnet_edge.video.frames import format_status

    console = stderr()
    try:
        if quiet or not console.is_terminal:
            running.run()
            return
        with console.status("waiting for the first frame") as status:
            for shown in running:
                status.update(format_status(shown.status))
    except KeyboardInterrupt:
        pass  # the usual way to end it


def _print_statistics(statistics: LiveStatistics) -> None:
    age, restore = statistics.age, statistics.stages["restore"]
    stderr().print(
        f"{statistics.source}: {statistics.shown} frames at {statistics.fps:.1f} fps, "
        f"{statistics.dropped} dropped, {statistics.failed} not restored; age p50 "
        f"{age.p50_ms:.0f} ms, p95 {age.p95_ms:.0f} ms; restoring p50 {restore.p50_ms:.0f} ms; "
        f"{statistics.configuration}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


main = command(
    live,
    script="mirnet-webcam",
    examples=(
        "live",
        "live --source rtsp://camera/stream --display web --target-fps 15",
        "live --source synthetic --display none --record build/live.mp4",
    ),
)
