"""A page served from this process, and frames for it."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from mirnet_edge.video.controls import Controls
from mirnet_edge.video.frames import Figures, Shown, VideoFrame

pytest.importorskip("aiohttp", reason='needs pip install "mirnet-edge[web]"')
pytest.importorskip("aiortc", reason='needs pip install "mirnet-edge[web]"')


def shown_of(index, *, height=48, width=64, before=20, after=120):
    """Return what a sink gets: two flat pictures."""
    figures = Figures(
        fps=30.0, age_ms=20.0, age_p95_ms=25.0, restore_ms=5.0, captured=index + 1, shown=index + 1,
        dropped=0, failed=0, mode="null:fp32", modes=("null:fp32", "null:int8"), restoring=True,
        frozen=False, recording=False, snapshots=0, note="",
    )  # fmt: skip
    return Shown(
        before=VideoFrame(
            pixels=np.full((height, width, 3), before, np.uint8), index=index, captured_s=0.0
        ),
        after=np.full((height, width, 3), after, np.uint8),
        restored=True,
        figures=figures,
    )


@pytest.fixture
def make_shown():
    return shown_of


@pytest.fixture
def serving():
    """Serve a page: `with serving(token="secret") as (sink, controls):`."""
    from mirnet_edge.video.web.sink import WebSink

    @contextmanager
    def serve(**options):
        controls = Controls(("null:fp32", "null:int8"))
        with WebSink(controls, port=0, **options) as sink:
            yield sink, controls

    return serve
