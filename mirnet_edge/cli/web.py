"""`mirnet web`: a bundle as a page that restores in the browser, served to this machine."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mirnet_edge.cli.application import command, stderr
from mirnet_edge.cli.arguments import (
    INPUT,
    MODEL,
    OUTPUT,
    RUNTIME_HELP,
    check_bundle,
    check_file,
)
from mirnet_edge.errors import OptionError
from mirnet_edge.runtime.shipped import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from mirnet_edge.export.web.page import WebPage

_PAGE = "Web page"


def web(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="DIR|shipped:NAME",
            help="A bundle's folder, a bundle of this package, or a page that was written before.",
            rich_help_panel=INPUT,
        ),
    ] = DEFAULT_BUNDLE,
    precision: Annotated[
        Literal["fp32", "int8"],
        typer.Option(
            help="Of the network. int8 is smaller, hardly faster, and for processors alone.",
            rich_help_panel=MODEL,
        ),
    ] = "fp32",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the page to this folder and keep it: static files for any web server.",
            show_default="a temporary folder",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve/--no-serve", help="Serve the page to this machine.", rich_help_panel=_PAGE
        ),
    ] = True,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port of the page; 0 for any free one.", rich_help_panel=_PAGE
        ),
    ] = 8322,
    open_browser: Annotated[
        bool,
        typer.Option(
            "--open/--no-open",
            help="Open the page in this machine's browser, where it has a display.",
            rich_help_panel=_PAGE,
        ),
    ] = True,
    runtime: Annotated[
        Path | None, typer.Option(metavar="FILE.tgz", help=RUNTIME_HELP, rich_help_panel=INPUT)
    ] = None,
) -> None:
    """Restore photos, clips and the camera in the browser: nothing leaves it.

    Writes a page with the bundle's network and serves it at 127.0.0.1 until Ctrl-C.
    """
    check_file(runtime, "--runtime", "the archive that npm pack onnxruntime-web writes")
    with ExitStack() as stack:
        folder = Path(bundle)
        if not (folder / "page.json").is_file():
            if out is None and not serve:
                raise OptionError("--no-serve without --out would keep nothing; give --out DIR")
            check_bundle(bundle)
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="mirnet-web-"))
            folder = out or Path(temporary) / "page"
            _print(_write(bundle, folder, precision, runtime).summary)
        elif out is not None:
            raise OptionError(f"{folder} is a page already; leave --out out")
        if serve:
            _serve(folder, port, open_browser=open_browser)


def _write(bundle: str, folder: Path, precision: str, runtime: Path | None) -> WebPage:
    from mirnet_edge.export.web.page import write_page
    from mirnet_edge.runtime.shipped import find_bundle

    with stderr().status("write the page; the first time, npm brings onnxruntime-web (33 MB)"):
        return write_page(
            find_bundle(bundle), folder, name=bundle, precision=precision, runtime=runtime
        )


def _serve(folder: Path, port: int, *, open_browser: bool) -> None:
    from mirnet_edge.cli.live import end_on_signals, open_in_browser
    from mirnet_edge.export.web.serving import serve_page

    with serve_page(folder, port) as server, end_on_signals():
        _print(f"open {server.address}")
        if open_browser:
            open_in_browser(server.address)
        with suppress(KeyboardInterrupt):  # the usual way to end it
            server.serve_forever(poll_interval=0.2)


def _print(line: str) -> None:
    stderr().print(line, highlight=False, markup=False, soft_wrap=True)


main = command(
    web,
    examples=(
        "web",
        "web shipped:denoise --out build/denoise-page --no-serve",
        "web build/denoise-page --port 0",
    ),
)
