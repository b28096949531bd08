"""mirnet-webcam: a camera, a stream or a file, restored live."""

from __future__ import annotations

import math
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command, parsed_size, stderr
from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.backends import backend_names

if TYPE_CHECKING:
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.live.pipeline import Live, LiveStatistics
    from mirnet_edge.video.live.publishing import Publisher
    from mirnet_edge.video.live.sinks import Sink
    from mirnet_edge.video.restorer import Restorer
    from mirnet_edge.video.web.camera import BrowserSource

_BACKENDS = f"auto, {', '.join(backend_names())}."
_DISPLAYS = ("window", "web", "none")
_BROWSER = "browser"


def webcam(
    source: Annotated[
        str,
        typer.Option(
            help="A camera's number, a file, rtsp://..., 'gst: PIPELINE', csi, synthetic, or "
            "browser: the camera of whoever opens the page of --display web."
        ),
    ] = "0",
    bundle: Annotated[
        Path | None,
        typer.Option(help="A bundle's folder; one of the shipped weights if left out."),
    ] = None,
    display: Annotated[str, typer.Option(help="window, web or none.")] = "window",
    host: Annotated[
        str, typer.Option(help="Where the page of --display web is; others need its token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the page; 0 takes any.")] = 8321,
    certificate: Annotated[
        Path | None, typer.Option(help="Of the page, PEM: serves it as https.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The certificate's, PEM; if it is not in the same file.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write what is shown to this file (.mp4, .mkv, .mov).")
    ] = None,
    virtual_camera: Annotated[
        str | None,
        typer.Option(
            help="Other programs see it as a camera: auto, or /dev/videoN of v4l2loopback."
        ),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="Publish what is shown to an RTSP server: rtsp://HOST:8554/NAME. Where it is not "
            "there, or goes away, it is tried again."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of the frames: WIDTHxHEIGHT, for example 640x480.")
    ] = None,
    target_fps: Annotated[
        float | None,
        typer.Option(help="Do less for each frame, as far as it takes, to hold this rate."),
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(help="Write rates, ages and stage times to this file, as JSON.")
    ] = None,
    backend: Annotated[str, typer.Option(help=_BACKENDS)] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16, fp16, int8, int8+bf16 or int8+fp16.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="How many to use; the backend decides if left out.")
    ] = None,
    snapshots: Annotated[
        Path | None, typer.Option(help="Folder for saved frames; this one if left out.")
    ] = None,
) -> None:
    """Restore a camera's image live: the newest frame, never a queue.

    Without a camera try --source synthetic. Ctrl-C, q or the end of a file end it; files are
    closed and playable then.
    """
    if display not in _DISPLAYS:
        raise OptionError(f"--display must be one of {', '.join(_DISPLAYS)}, found {display!r}")
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
    from mirnet_edge.video.live.sources import open_source

    # a missing camera, display or file is told before the bundle is made
    controls = Controls(recording=record is not None)
    camera = _browser_camera(controls, display) if source == _BROWSER else None
    asked = None if size is None else parsed_size(size, "--size")
    opened = camera or open_source(source, size=asked)
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
    live = Live(opened, restorer, sinks, controls=controls, reconnect_policy=reconnect_policy)
    try:
        _run(live, quiet=display != "none")
    finally:
        statistics = live.statistics()
        if stats is not None:
            statistics.write_json(stats)
    _tell(statistics)
    if publisher is not None:
        stderr().print(publisher.summary(), highlight=False, markup=False, soft_wrap=True)


def _sinks(
    controls: Controls, display: str, record: Path | None, snapshots: Path | None
) -> list[Sink]:
    from pathlib import Path

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


def _browser_camera(controls: Controls, display: str) -> BrowserSource:
    from mirnet_edge.video.web.camera import BrowserSource

    if display != "web":
        raise OptionError(f"--source browser needs --display web, found --display {display}")
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

    def tell(addresses: tuple[str, ...]) -> None:
        lines = [f"open {address}" for address in addresses]
        if page.https_advice:
            lines.append(f"browsers give their camera to https only: {page.https_advice}")
        for line in lines:
            stderr().print(line, highlight=False, markup=False, soft_wrap=True)

    page = WebSink(
        controls, host=host, port=port, camera=camera, certificate=certificate, key=key,
        on_open=tell,
    )  # fmt: skip
    return page


def _restorer(
    bundle: Path | None,
    backend: str,
    precision: str,
    threads: int | None,
    target_fps: float | None,
) -> Restorer:
    from mirnet_edge.video.live.stream import shipped_bundle
    from mirnet_edge.video.restorer import bundle_restorer

    if bundle is None:
        console = stderr()
        bundle = shipped_bundle(
            on_stage=lambda what: console.print(what, highlight=False, soft_wrap=True)
        )
    if target_fps is not None:
        from mirnet_edge.video.live.budget import budgeted_restorer

        return budgeted_restorer(bundle, target_fps, backend, precision, threads=threads)
    return bundle_restorer(bundle, backend, precision, threads=threads)


def _run(live: Live, *, quiet: bool) -> None:
    """Run to the end; Ctrl-C is one. Where nothing is shown a line tells how it goes."""
    from mirnet_edge.video.frames import format_status

    console = stderr()
    try:
        if quiet or not console.is_terminal:
            live.run()
            return
        with console.status("waiting for the first frame") as status:
            for shown in live:
                status.update(format_status(shown.status))
    except KeyboardInterrupt:
        pass  # the usual way to end it


def _tell(statistics: LiveStatistics) -> None:
    age, restore = statistics.age, statistics.stages["restore"]
    stderr().print(
        f"{statistics.source}: {statistics.shown} frames at {statistics.fps:.1f} fps, "
        f"{statistics.dropped} dropped, {statistics.failed} not restored; age p50 "
        f"{age.p50_ms:.0f} ms, p95 {age.p95_ms:.0f} ms; restoring p50 {restore.p50_ms:.0f} ms; "
        f"{statistics.configuration}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


main = command(webcam)
