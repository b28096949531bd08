"""The process that builds a plan: `python -m mirnet_edge.engines.worker`.

It takes one JSON request on stdin and gives one JSON event per line on stdout: progress, then
done or error. It never imports torch, whose memory a small device needs for the build.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

from mirnet_edge.engines.build import OutOfMemoryError, Settings, build_engine
from mirnet_edge.engines.profiles import Profile
from mirnet_edge.errors import MirnetEdgeError

_REPORT_EVERY_S = 0.5
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Events:
    """Writes events to a stream; progress at most twice a second."""

    def __init__(self, stream: IO[str]) -> None:
        """Take the stream."""
        self._stream = stream
        self._last_s = -_REPORT_EVERY_S

    def progress(self, text: str) -> None:
        """Say what is being done, unless that was said just now."""
        now = time.monotonic()
        if now - self._last_s >= _REPORT_EVERY_S:
            self._last_s = now
            self.send("progress", text=text)

    def send(self, event: str, **content: Any) -> None:  # noqa: ANN401  # JSON
        """Write one event."""
        self._stream.write(json.dumps({"event": event, **content}) + "\n")
        self._stream.flush()


def main() -> None:
    """Build what stdin asks for."""
    # Ctrl-C reaches the whole group of processes; the parent decides, and ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    events = Events(sys.stdout)
    request = json.load(sys.stdin)
    try:
        facts = build_engine(
            Path(request["onnx"]),
            Path(request["plan"]),
            [Profile.from_document(profile) for profile in request["profiles"]],
            graph=request["graph"],
            precision=request["precision"],
            settings=Settings(
                workspace_mib=request["workspace_mib"],
                level=request["level"],
                capabilities=tuple(request["capabilities"]),
            ),
            flavour=request["flavour"],
            timing_cache=Path(request["timing_cache"]) if request["timing_cache"] else None,
            cache_origin=request["cache_origin"],
            on_progress=events.progress,
        )
    except (OutOfMemoryError, MemoryError) as error:
        events.send("error", kind="memory", text=str(error) or "out of memory")
    except MirnetEdgeError as error:
        events.send("error", kind=type(error).__name__, text=str(error))
    else:
        events.send("done", facts=facts.model_dump(mode="json"))


if __name__ == "__main__":
    main()
