"""The server of a page: to this machine alone, with the headers that threads need."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.export.web.serving import serve_page


@pytest.fixture
def ask(tmp_path, serve_folder):
    """Ask for a path: ask("/a.js", host="...") gives status, headers and content."""
    site = tmp_path / "site"
    (site / "runtime").mkdir(parents=True)
    for name in ("index.html", "a.js", "runtime/b.mjs", "runtime/c.wasm.gz"):
        (site / name).write_text(name)
    (tmp_path / "secret.txt").write_text("secret")
    address = urlsplit(serve_folder(site)).netloc

    def get(path, host=address, method="GET"):
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    return get


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/a.js", "text/javascript; charset=utf-8"),
        ("/runtime/b.mjs", "text/javascript; charset=utf-8"),
        ("/runtime/c.wasm.gz", "application/octet-stream"),
    ],
)
def test_files_have_their_type_and_the_headers_of_isolation(ask, path, kind):
    status, headers, content = ask(path)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert content.decode() == (path.removeprefix("/") or "index.html")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Content-Encoding"] is None
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_other_names_of_this_machine_are_refused(ask):
    assert ask("/", host="attacker.example")[0] == 403
    assert ask("/", host="localhost")[0] == 200


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/runtime/", "/absent"])
def test_nothing_else_is_served(ask, path):
    status, _, content = ask(path)
    assert status == 404
    assert b"secret" not in content.replace(b"secret.txt", b"")
    assert b"c.wasm" not in content


def test_nothing_is_taken(ask):
    assert ask("/a.js", method="PUT")[0] == 501


def test_a_port_in_use_is_told(tmp_path):
    with serve_page(tmp_path, 0) as first:
        port = first.server_address[1]
        with (
            pytest.raises(OptionError, match=f"cannot be served on 127.0.0.1:{port}"),
            serve_page(tmp_path, port),
        ):
            pass
