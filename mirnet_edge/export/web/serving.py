"""Serve a page's folder to this machine, with the two headers that threads in a browser need."""

from __future__ import annotations

import http.server
import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
DEFAULT_PORT = 8322
ISOLATION_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With these a page is cross-origin isolated, and may share memory between threads."""
_LOCAL_NAMES = ("localhost", HOST)
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@contextmanager
def serve_page(folder: Path, port: int = DEFAULT_PORT) -> Iterator[PageServer]:
    """Serve a folder on this machine's loopback address while the block lasts.

    Args:
        folder: A page's.
        port: 0 takes any that is free.

    Raises:
        OptionError: The port cannot be listened on.
    """
    try:
        server = PageServer((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise OptionError(
            f"the page cannot be served on {HOST}:{port}: {error.strerror}; choose another with "
            "--port, or 0 for any free one"
        ) from error
    try:
        yield server
    finally:
        server.server_close()


class PageServer(http.server.ThreadingHTTPServer):
    """The server of a page's folder; `serve_forever` answers requests."""

    daemon_threads = True

    @property
    def address(self) -> str:
        """Return the page's URL."""
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Answers with the folder's files, to this machine under its own name."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    extensions_map = _KINDS

    def guess_type(self, path: Any) -> str:  # noqa: ANN401  # as of the base class
        """Return the content type by the file's ending; compressed files are sent as they are."""
        return next(
            (kind for ending, kind in _KINDS.items() if str(path).endswith(ending)),
            "application/octet-stream",
        )

    def send_head(self) -> Any:  # noqa: ANN401  # as of the base class
        """Refuse other sites' pages, which reach this server under another name."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in _LOCAL_NAMES:
            self.send_error(403, f"open this page under {HOST}")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:  # noqa: ANN401  # as of the base class
        """Show no lists of files."""
        del path
        self.send_error(404)

    def end_headers(self) -> None:
        """Add the headers that all answers have."""
        for name, value in ISOLATION_HEADERS.items():
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Permissions-Policy", "camera=(self), microphone=(), geolocation=()")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401
        """Log requests for those who ask with -v."""
        logger.debug(format, *args)
