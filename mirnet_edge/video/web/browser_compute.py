"""Live video that the viewers' browsers restore: `mirnet live --compute browser`.

The server sends frames as they are; a page restores them as `mirnet web` does, with the same files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.images.contract import check_frames
from mirnet_edge.runtime.runner import ReentrantContext
from mirnet_edge.runtime.shipped import find_bundle
from mirnet_edge.video.restorer import single_runner_restorer

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.video.restorer import Restorer

BROWSER_HEADERS = {
    # threads share memory on isolated pages only, and WebAssembly is code that is compiled
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        "img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; worker-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
"""In place of those of the same names in `sessions.SECURITY_HEADERS`."""


class UnrestoredRunner(ReentrantContext):
    """A runner that gives frames as they are: the browsers restore them."""

    name = "browser"
    multiple = 1
    scale = 1

    def run(self, frames: Frames) -> Frames:
        """Return the frames.

        Raises:
            ImageError: Not (N, H, W, 3) uint8.
        """
        check_frames(frames)
        return frames

    def _open(self) -> None:
        """Open nothing."""

    def _close(self) -> None:
        """Close nothing."""


def unrestored_restorer() -> Restorer:
    """Return a restorer that gives frames as they are."""
    return single_runner_restorer(UnrestoredRunner())


def read_browser_files(bundle: str, runtime: Path | None = None) -> dict[str, bytes]:
    """Return what a page needs to restore with a bundle, by the names that it loads them by.

    Args:
        bundle: Its folder, or `shipped:NAME`.
        runtime: The archive of onnxruntime-web; None for the user's cache, or npm.

    Raises:
        MirnetEdgeError: As `export.web.page.write_browser_files`.
    """
    from mirnet_edge.export.web.page import make_network, write_browser_files

    network, facts = make_network(find_bundle(bundle), bundle)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_browser_files(folder, network, facts, runtime)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
