"""Who may come in: the token in the address, the page's own origin, and what a browser may do.

Without a token the page is for this machine, and other sites that its browser visits must not
reach it: neither under a name of theirs (DNS rebinding) nor from a page of theirs.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

# the page loads nothing from elsewhere, runs no script of anybody else, and sits in no frame
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_local(host: str) -> bool:
    """Say whether nobody but this machine reaches what listens on HOST."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may stand for any address


def new_token() -> str:
    """Return a token nobody guesses: 128 bits, as they may stand in an address."""
    return secrets.token_urlsafe(16)


@dataclass(frozen=True, kw_only=True)
class Door:
    """Refuses with 403 whoever may not come in. The same for every route, known or not."""

    token: str | None
    """The first part of every path; None where only this machine listens."""

    @property
    def prefix(self) -> str:
        """Return what every path begins with, without the slash at the end."""
        return "" if self.token is None else f"/{self.token}"

    def check(self, request: web.Request) -> None:
        """Let the request pass.

        Raises:
            web.HTTPForbidden: The token is missing or wrong, or another site's page asks.
        """
        if self.token is not None:
            first = request.path.split("/", 2)[1]
            if not hmac.compare_digest(first.encode(), self.token.encode()):
                raise web.HTTPForbidden(text="this address lacks the token; use the whole address")
        elif _hostname(f"//{request.host}") not in _LOCAL_NAMES:
            raise web.HTTPForbidden(text="open this page under 127.0.0.1")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another site's page may not use this one")


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
