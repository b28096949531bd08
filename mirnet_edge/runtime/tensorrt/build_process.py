"""Build a TensorRT engine in a separate process (`python -m` this module is the worker).

The worker reads one JSON request from stdin and writes one JSON event per line to stdout: progress,
then done or error. It never imports torch, whose memory a small device needs for the build.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mirnet_edge import errors
from mirnet_edge.errors import EngineError, MirnetEdgeError
from mirnet_edge.manifest import EngineFacts
from mirnet_edge.runtime.tensorrt.build import (
    BuildSettings,
    OptimizationProfile,
    OutOfMemoryError,
    build_engine,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirnet_edge.manifest import Precision

_HEARTBEAT_S = 10.0
_GRACE_S = 2.0
_WORKER = ("-m", "mirnet_edge.runtime.tensorrt.build_process")
_DEFAULT_LEVEL = 3  # TensorRT's own


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A request for an engine build: the graph, the engine file, profiles and settings."""

    onnx: Path
    plan: Path
    profiles: tuple[OptimizationProfile, ...]
    graph: str
    precision: Precision | None = None
    settings: BuildSettings = field(default_factory=BuildSettings)
    flavor: str | None = None
    timing_cache: Path | None = None
    cache_origin: str | None = None
    """The manifest's entry of that file; None where the file is another."""


def build_apart(
    request: BuildRequest,
    on_stage: Callable[[str], None] = lambda what: None,
    *,
    heartbeat_s: float = _HEARTBEAT_S,
) -> EngineFacts:
    """Build an engine in a separate process, without torch, and return its facts.

    Out of memory, it is built again with a smaller workspace, then a lower optimization level, then
    a smaller profile; each step is reported.

    Args:
        request: What to build.
        on_stage: Called with the progress, at least once a heartbeat.
        heartbeat_s: Seconds without progress after which the elapsed time is reported.

    Raises:
        MissingDependencyError: There is no TensorRT.
        EngineError: TensorRT refuses the graph, which names the node; or there is not enough
            memory for any attempt.
    """
    attempts = list(ladder(request))
    for place, attempt in enumerate(attempts):
        try:
            return _build(attempt, on_stage, heartbeat_s)
        except OutOfMemoryError as error:
            if place + 1 == len(attempts):
                raise EngineError(
                    f"{error}. Tried {len(attempts)} times, last with {describe_attempt(attempt)}. "
                    "Close other programs (the desktop too), add swap, or give smaller --profiles"
                ) from error
            on_stage(
                f"out of memory with {describe_attempt(attempt)}; "
                f"again with {describe_attempt(attempts[place + 1])}"
            )
    raise AssertionError("the ladder has at least one rung")


def ladder(request: BuildRequest) -> Iterator[BuildRequest]:
    """Yield the attempts: as requested, less workspace, a lower level, a smaller profile."""
    yield request
    given = request.settings
    small = min(given.workspace_mib or 1024, 1024) // 2
    less = replace(given, workspace_mib=max(64, small))
    yield replace(request, settings=less)
    level = _DEFAULT_LEVEL if given.level is None else given.level
    lower = replace(less, workspace_mib=max(64, small // 2), level=max(0, min(level, 3) - 2))
    yield replace(request, settings=lower)
    smaller = _with_less_memory(request.profiles)
    if smaller != request.profiles:
        yield replace(request, settings=lower, profiles=smaller)


def describe_attempt(request: BuildRequest) -> str:
    """Return the settings of an attempt as text."""
    workspace, level = request.settings.workspace_mib, request.settings.level
    parts = [
        f"workspace {'unlimited' if workspace is None else f'{workspace} MiB'}",
        f"level {_DEFAULT_LEVEL if level is None else level}",
        f"{len(request.profiles)} profile{'s' if len(request.profiles) != 1 else ''} up to "
        + "x".join(map(str, max(profile.maximum for profile in request.profiles))),
    ]
    return ", ".join(parts)


def _with_less_memory(profiles: tuple[OptimizationProfile, ...]) -> tuple[OptimizationProfile, ...]:
    """Return profiles without the largest, or of a single one no more than the usual size."""
    if len(profiles) > 1:
        largest = max(profiles, key=lambda one: one.maximum)
        return tuple(one for one in profiles if one is not largest)
    only = profiles[0]
    return (OptimizationProfile(only.minimum, only.usual, only.usual),)


def _build(
    request: BuildRequest, on_stage: Callable[[str], None], heartbeat_s: float
) -> EngineFacts:
    started = time.monotonic()
    with _worker(request) as (events, ended):
        while True:
            try:
                line = events.get(timeout=heartbeat_s)
            except queue.Empty:
                on_stage(f"{request.graph}: still building, {time.monotonic() - started:.0f} s")
                continue
            if line is None:
                raise _exit_error(request, *ended())
            event = _event(line)
            if event.get("event") == "progress":
                elapsed = time.monotonic() - started
                on_stage(f"{request.graph}: {event['text']}, {elapsed:.0f} s")
            elif event.get("event") == "error":
                raise _reported_error(event)
            elif event.get("event") == "done":
                return EngineFacts.model_validate(event["facts"])


@contextlib.contextmanager
def _worker(
    request: BuildRequest,
) -> Iterator[tuple[queue.Queue[str | None], Callable[[], tuple[int, str]]]]:
    """Start the worker; yield its lines, None after the last, and its exit. Ends it at the end."""
    with subprocess.Popen(
        [sys.executable, *_WORKER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        lines: queue.Queue[str | None] = queue.Queue()
        stderr_lines: list[str] = []
        readers = [
            threading.Thread(target=_forward_lines, args=(process.stdout, lines), daemon=True),
            threading.Thread(target=stderr_lines.extend, args=(process.stderr,), daemon=True),
        ]
        for reader in readers:
            reader.start()

        def ended() -> tuple[int, str]:
            code = process.wait()
            readers[1].join()
            return code, "".join(stderr_lines).strip()

        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # type: ignore[union-attr]
                json.dump(_request_document(request), process.stdin)  # type: ignore[arg-type]  # PIPE was asked for
            yield lines, ended
        finally:
            _end(process)
            for reader in readers:
                reader.join()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _forward_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _request_document(request: BuildRequest) -> dict[str, Any]:
    return {
        "onnx": str(request.onnx),
        "plan": str(request.plan),
        "profiles": [profile.to_document() for profile in request.profiles],
        "graph": request.graph,
        "precision": request.precision,
        "workspace_mib": request.settings.workspace_mib,
        "level": request.settings.level,
        "capabilities": list(request.settings.capabilities),
        "flavor": request.flavor,
        "timing_cache": str(request.timing_cache) if request.timing_cache else None,
        "cache_origin": request.cache_origin,
    }


def _event(line: str) -> dict[str, Any]:
    """Return an event; an empty one for lines that libraries print to stdout themselves."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _reported_error(event: dict[str, Any]) -> MirnetEdgeError:
    if event["kind"] == "memory":
        return OutOfMemoryError(event["text"])
    kind = getattr(errors, event["kind"], EngineError)
    error: MirnetEdgeError = kind(event["text"])
    return error


def _exit_error(request: BuildRequest, code: int, stderr: str) -> MirnetEdgeError:
    what = f"{request.onnx.name}: the process that built the engine"
    if code == -signal.SIGKILL:  # by Linux, out of memory
        return OutOfMemoryError(f"{what} was killed, as Linux does when memory runs out")
    last = stderr.splitlines()[-1] if stderr else "no message"
    return EngineError(
        f"{what} ended with code {code}: {last}. The bundle's other configurations are not "
        "affected; report it with TensorRT's version"
    )


_REPORT_EVERY_S = 0.5
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class BuildEvents:
    """Writes the worker's events to a stream; progress at most twice a second."""

    def __init__(self, stream: IO[str]) -> None:
        """Write to this stream."""
        self._stream = stream
        self._last_s = -_REPORT_EVERY_S

    def progress(self, text: str) -> None:
        """Report progress, unless something was reported just before."""
        now = time.monotonic()
        if now - self._last_s >= _REPORT_EVERY_S:
            self._last_s = now
            self.send("progress", text=text)

    def send(self, event: str, **content: Any) -> None:  # noqa: ANN401  # JSON
        """Write one event."""
        self._stream.write(json.dumps({"event": event, **content}) + "\n")
        self._stream.flush()


def main() -> None:
    """Build the engine that stdin requests."""
    # Ctrl-C reaches the whole group of processes; the parent decides, and ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    events = BuildEvents(sys.stdout)
    document = json.load(sys.stdin)
    try:
        facts = build_engine(
            Path(document["onnx"]),
            Path(document["plan"]),
            [OptimizationProfile.from_document(profile) for profile in document["profiles"]],
            graph=document["graph"],
            precision=document["precision"],
            settings=BuildSettings(
                workspace_mib=document["workspace_mib"],
                level=document["level"],
                capabilities=tuple(document["capabilities"]),
            ),
            flavor=document["flavor"],
            timing_cache=Path(document["timing_cache"]) if document["timing_cache"] else None,
            cache_origin=document["cache_origin"],
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
