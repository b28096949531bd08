"""Pages that are written and served from this process."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.export.web.page import write_page
from mirnet_edge.export.web.runtime import find_archive
from mirnet_edge.export.web.serving import serve_page


@pytest.fixture(scope="session")
def runtime_archive():
    """Return the archive of onnxruntime-web, which npm brings once."""
    try:
        return find_archive()
    except MirnetEdgeError as error:
        pytest.skip(f"no onnxruntime-web on this machine: {error}")


@pytest.fixture
def serve_folder():
    """Serve folders until the test ends: serve_folder(folder) gives the address."""
    with ExitStack() as stack:

        def serve(folder):
            server = stack.enter_context(serve_page(folder, 0))
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(server.shutdown)
            return server.address

        yield serve


@pytest.fixture
def make_page(tmp_path, runtime_archive):
    """Write a page: make_page(bundle, precision="int8") gives its folder."""

    def make(bundle, name="page", **options):
        return write_page(bundle, tmp_path / name, runtime=runtime_archive, **options).folder

    return make
