"""`mirnet live`: a camera, a stream or a file, restored live."""

from __future__ import annotations

import logging
import math
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mirnet_edge.cli.application import command, stderr, suggest
from mirnet_edge.cli.arguments import (
    BACKENDS_HELP,
    INPUT,
    MODEL,
    OUTPUT,
    RUNTIME_HELP,
    SHIPPED,
    SIZE_METAVAR,
    SPEED,
    check_bundle,
    check_file,
    check_positive,
    check_source,
    parse_size,
)
from mirnet_edge.errors import MissingDependencyError, OptionError
from mirnet_edge.runtime.shipped import DEFAULT_BUNDLE
from mirnet_edge.runtime.task_choice import TASK_NAMES, check_one_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.live.pipeline import Live, LiveStatistics
    from mirnet_edge.video.live.publishing import Publisher
    from mirnet_edge.video.live.sinks import Sink
    from mirnet_edge.video.live.sources import Source
    from mirnet_edge.video.restorer import Restorer
    from mirnet_edge.video.web.camera import BrowserSource

logger = logging.getLogger(__name__)

_BROWSER = "browser"
_PAGE = "Web page"


def live(
    source: Annotated[
        str | None,
        typer.Option(
            help="A camera's number, a file, rtsp://..., 'gst: PIPELINE', csi, rpicam, synthetic, "
            "or browser: the camera of the viewer of --display web.",
            show_default="the first camera, without one synthetic",
            rich_help_panel=INPUT,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar=SIZE_METAVAR,
            help="Frame size.",
            show_default="the source's",
            rich_help_panel=INPUT,
        ),
    ] = None,
    loop: Annotated[
        bool,
        typer.Option("--loop", help="Begin a file again at its end.", rich_help_panel=INPUT),
    ] = False,
    exit_at_end: Annotated[
        bool,
        typer.Option(
            "--exit-at-end",
            help="End with the file, as --display none does; otherwise its last frame stays, with "
            "a button to replay it.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help=f"What to restore, by a bundle of this package: {', '.join(TASK_NAMES)}.",
            show_default=DEFAULT_BUNDLE.removeprefix(SHIPPED),
            rich_help_panel=MODEL,
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|shipped:NAME",
            help="In place of --task: a bundle's folder, written by mirnet export, or a bundle of "
            "this package.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the restored frame, from 0 to 1; the page changes it live.",
            rich_help_panel=MODEL,
        ),
    ] = 1.0,
    display: Annotated[
        Literal["auto", "window", "web", "none"],
        typer.Option(
            help="Where to show frames; auto: on a page where the packages of the extra web are "
            "installed, else in a window.",
            rich_help_panel=OUTPUT,
        ),
    ] = "auto",
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
    compute: Annotated[
        Literal["server", "browser"],
        typer.Option(
            help="Where frames of the page are restored; browser: by each viewer's browser, on its "
            "processor or GPU.",
            rich_help_panel=_PAGE,
        ),
    ] = "server",
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.tgz", help=f"Of --compute browser: {RUNTIME_HELP}", rich_help_panel=_PAGE
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
    open_browser: Annotated[
        bool,
        typer.Option(
            "--open/--no-open",
            help="Open the page in this machine's browser, where it has a display.",
            rich_help_panel=_PAGE,
        ),
    ] = True,
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
        typer.Option(
            help=f"{BACKENDS_HELP}. Several with commas: the first that opens.",
            rich_help_panel=SPEED,
        ),
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
            help="Threads to use.",
            show_default="as few as hold the source's frame rate",
            rich_help_panel=SPEED,
        ),
    ] = None,
    target_fps: Annotated[
        float | None,
        typer.Option(
            "--target-fps",
            "--fps-target",
            help="Frame rate to hold. On the first frames, networks of the task, frame sizes and "
            "left out frames are measured; the one that loses least is used, and printed.",
            rich_help_panel=SPEED,
        ),
    ] = None,
) -> None:
    """Restore a camera's frames live: always the newest frame, never a queue.

    Without options it restores the first camera, or a synthetic scene, on a page of this machine.
    Ctrl-C, q in the window or SIGTERM end it; recorded files are closed and playable then.
    """
    frame_size = None if size is None else parse_size(size, "--size")
    check_positive(target_fps, "--target-fps")
    _check_options(source, display, task=task, bundle=bundle, loop=loop, exit_at_end=exit_at_end)
    if compute == "browser":
        _check_browser_computes(source, display, record, stream, virtual_camera, target_fps)
    chosen = bundle or (DEFAULT_BUNDLE if task is None else SHIPPED + task)
    check_file(certificate, "--certificate", "a PEM file")
    check_file(key, "--key", "a PEM file")
    check_file(runtime, "--runtime", "the archive that npm pack onnxruntime-web writes")
    check_bundle(chosen)
    from mirnet_edge.video.live.controls import Controls
    from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
    from mirnet_edge.video.live.playback import FilePlayer

    # errors of the camera, the display and files come before a bundle is opened
    browser_files = _browser_files(chosen, runtime) if compute == "browser" else None
    shown_in = display if display != "auto" else _choose_display(source)
    if browser_files is not None:
        shown_in = "web"
    controls = Controls(recording=record is not None, strength=strength, loop=loop)
    camera = _browser_camera(controls) if source == _BROWSER else None
    hold_at_end = shown_in != "none" and not exit_at_end
    opened = camera or _open_source(source, frame_size, controls, hold_at_end=hold_at_end)
    folder = snapshots or Path()
    sinks = _sinks(controls, shown_in, record, folder)
    if virtual_camera is not None:
        sinks.append(_virtual_camera(virtual_camera))
    publisher = None if stream is None else _publisher(stream)
    if publisher is not None:
        sinks.append(publisher)
    if shown_in == "web":
        page = _page(
            controls, host, port, camera, certificate, key,
            snapshots=None if camera or browser_files else folder, open_browser=open_browser,
            browser_files=browser_files,
        )  # fmt: skip
        sinks.insert(0, page)
    with end_on_signals():
        restorer = (
            _unrestored() if browser_files
            else _restorer(chosen, backend, precision, threads, target_fps, opened)
        )  # fmt: skip
        # a viewer may open the page, or end a pause, at any time
        waits_for_people = camera is not None or isinstance(opened, FilePlayer)
        running = Live(
            opened, restorer, sinks, controls=controls,
            reconnect_policy=ReconnectPolicy(blocked_s=math.inf) if waits_for_people else None,
        )  # fmt: skip
        try:
            _run(running, quiet=shown_in != "none")
        finally:
            statistics = running.statistics()
            _print_statistics(statistics)
            if publisher is not None:
                stderr().print(publisher.summary(), highlight=False, markup=False, soft_wrap=True)
            if stats is not None:
                statistics.write_json(stats)


def _check_options(
    source: str | None, display: str, *,
    task: str | None, bundle: str | None, loop: bool, exit_at_end: bool,
) -> None:  # fmt: skip
    """Refuse options that exclude each other, and sources that do not exist."""
    if source == _BROWSER and display not in ("web", "auto"):
        raise OptionError(f"--source browser needs --display web, found --display {display}")
    check_one_of(task, bundle)
    if task is not None and task not in TASK_NAMES:
        raise OptionError(
            f"--task of live video is one of {', '.join(TASK_NAMES)}, found {task!r}."
            f"{suggest(task, TASK_NAMES)}"
        )
    if loop and exit_at_end:
        raise OptionError("--loop never comes to an end; leave out --exit-at-end")
    if source is not None:
        check_source(source)


def _check_browser_computes(
    source: str | None, display: str, record: Path | None,
    stream: str | None, virtual_camera: str | None, target_fps: float | None,
) -> None:  # fmt: skip
    """Refuse options whose frames this machine would have to restore.

    Raises:
        OptionError: One of them was given beside --compute browser.
    """
    if display not in ("web", "auto"):
        raise OptionError(f"--compute browser needs --display web, found --display {display}")
    if source == _BROWSER:
        raise OptionError(
            "--compute browser with --source browser sends a camera's frames here for nothing; "
            "mirnet web restores them where they are"
        )
    given = {
        "--record": record, "--stream": stream, "--virtual-camera": virtual_camera,
        "--target-fps": target_fps,
    }  # fmt: skip
    for option, value in given.items():
        if value is not None:
            raise OptionError(
                f"{option} needs frames that this machine restores; leave out --compute browser"
            )


def _browser_files(bundle: str, runtime: Path | None) -> dict[str, bytes]:
    from mirnet_edge.video.web.browser_compute import read_browser_files

    return read_browser_files(bundle, runtime)


def _unrestored() -> Restorer:
    from mirnet_edge.video.web.browser_compute import unrestored_restorer

    return unrestored_restorer()


def _choose_display(source: str | None) -> Literal["web", "window"]:
    """Return where --display auto shows frames: on a page, without its packages in a window.

    Raises:
        MissingDependencyError: The packages are not installed, and there is no display.
    """
    from mirnet_edge.dependencies import advice, available
    from mirnet_edge.video.live.window import has_display

    if source == _BROWSER or (available("aiohttp") and available("aiortc")):
        return "web"
    if has_display():
        return "window"
    raise MissingDependencyError(
        f"this machine has no display, and the page needs aiohttp and aiortc: {advice('aiohttp')}, "
        "or use --display none with --record FILE"
    )


def _open_source(
    source: str | None, size: tuple[int, int] | None, controls: Controls, *, hold_at_end: bool
) -> Source:
    """Return the source to read; a file in a player that follows the controls."""
    from mirnet_edge.video.live.playback import FilePlayer
    from mirnet_edge.video.live.sources import FileSource, find_camera, open_source

    if source is None:
        source, reason = find_camera()
        if source is None:
            source = "synthetic"
            stderr().print(
                f"{reason}: a synthetic scene is shown; --source takes a camera, a file or rtsp://...",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
    opened = open_source(source, size=size)
    if isinstance(opened, FileSource):
        return FilePlayer(opened, controls, hold_at_end=hold_at_end)
    return opened


def _sinks(controls: Controls, display: str, record: Path | None, snapshots: Path) -> list[Sink]:
    from mirnet_edge.video.live.recording import Recorder
    from mirnet_edge.video.live.sinks import DetachedSink, Snapshots
    from mirnet_edge.video.live.window import Window, check_display

    def print_line(line: str) -> None:
        stderr().print(line, highlight=False, markup=False, soft_wrap=True)

    def warn(line: str) -> None:
        controls.set_note(line)
        print_line(line)

    def end_recording(line: str) -> None:
        controls.set_recording(False)
        warn(line)

    sinks: list[Sink] = []
    if record is not None:
        sinks.append(DetachedSink(Recorder(record, on_failed=end_recording)))
    saving = Snapshots(snapshots, lambda path: print_line(f"saved {path}"), on_failed=warn)
    sinks.append(DetachedSink(saving))
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
    *,
    snapshots: Path | None,
    open_browser: bool,
    browser_files: dict[str, bytes] | None,
) -> Sink:
    from mirnet_edge.video.web.server import WebSink

    def print_addresses(addresses: tuple[str, ...]) -> None:
        lines = [f"open {address}" for address in addresses]
        if page.https_advice:
            lines.append(f"browsers give their camera to https only: {page.https_advice}")
        for line in lines:
            stderr().print(line, highlight=False, markup=False, soft_wrap=True)
        if open_browser:
            open_in_browser(addresses[0])

    page = WebSink(
        controls, host=host, port=port, camera=camera, certificate=certificate, key=key,
        snapshots=snapshots, on_open=print_addresses, browser_files=browser_files,
    )  # fmt: skip
    return page


def open_in_browser(address: str) -> None:
    """Open a page where this machine has a display; whatever fails, the address was printed."""
    import webbrowser

    from mirnet_edge.video.live.window import has_display

    def open_page() -> None:
        try:
            webbrowser.open(address)
        except (OSError, webbrowser.Error) as error:
            logger.info("the browser was not opened: %s", error)

    if has_display():
        # some browsers run until they are closed
        threading.Thread(target=open_page, name="browser", daemon=True).start()


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Make SIGTERM, and SIGHUP of a closed terminal, end the block as Ctrl-C does."""
    names = ("SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                former[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _restorer(
    bundle: str,
    backend: str,
    precision: str,
    threads: int | None,
    target_fps: float | None,
    source: Source,
) -> Restorer:
    from mirnet_edge.runtime.shipped import find_bundle
    from mirnet_edge.video.live.threads import few_threads_restorer
    from mirnet_edge.video.restorer import bundle_restorer

    folder = find_bundle(bundle)
    if target_fps is not None:
        from mirnet_edge.video.live.budget import budgeted_restorer

        console = stderr()
        return budgeted_restorer(
            folder, target_fps, backend, precision, threads=threads,
            on_choice=lambda line: console.print(
                line, highlight=False, markup=False, soft_wrap=True
            ),
        )  # fmt: skip
    if threads is None:
        return few_threads_restorer(folder, lambda: source.frame_time_s, backend, precision)
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
    from mirnet_edge.video.frames import describe_configuration

    age, restore = statistics.age, statistics.stages["restore"]
    stderr().print(
        f"{statistics.source}: {statistics.shown} frames at {statistics.fps:.1f} fps, "
        f"{statistics.dropped} dropped, {statistics.failed} not restored; age p50 "
        f"{age.p50_ms:.0f} ms, p95 {age.p95_ms:.0f} ms; restoring p50 {restore.p50_ms:.0f} ms; "
        f"{describe_configuration(statistics.configuration, statistics.placement)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


main = command(
    live,
    script="mirnet-webcam",
    examples=(
        "live",
        "live --source rtsp://camera/stream --display web --target-fps 15",
        "live --source night.mp4 --loop --strength 0.7",
        "live --source synthetic --display none --record build/live.mp4",
    ),
)
