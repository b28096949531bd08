"""The files of the pages: styles, scripts, images. Two pages share most of them.

`shared/`   styles, icon and the frame view with its slider
`browser/`  restoration in the browser: threads, tiles, smoothing
`restore/`  the page that restores in the browser alone; the live page is in `video/web/page`
"""

from __future__ import annotations

from importlib.resources import files

SHARED = ("shared/page.css", "shared/view.js", "shared/icon.svg")
"""What every page has."""
BROWSER = (
    "browser/engine.js",
    "browser/worker.js",
    "browser/network.js",
    "browser/tiles.js",
    "browser/smoothing.js",
)
"""What a page has that restores in the browser."""
RESTORE = ("restore/index.html", "restore/restore.js", "restore/restore.css")
"""The page that restores photos, clips and the camera."""


def read_asset(name: str) -> bytes:
    """Return the content of a file of the pages, by its folder and name as above."""
    return (files(__package__) / name).read_bytes()
