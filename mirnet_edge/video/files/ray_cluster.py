"""Restoring many videos on a Ray cluster: one task per file, which does what is done without Ray.

    restore_on_ray ─► one task per file ─► restore_video, in a worker process
                   ◄─ RestoredVideo, or why not, and what it warned of

The files, the bundle and the folder for the results must have the same paths on every machine of
the cluster: images travel through files, not through Ray.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mirnet_edge.dependencies import require
from mirnet_edge.errors import MirnetEdgeError, OptionError, VideoError
from mirnet_edge.video.files.restoring import RestoredVideo, restore_video
from mirnet_edge.video.restorer import single_runner_restorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from mirnet_edge.runtime.bundle import RunnerChoice

logger = logging.getLogger(__name__)

_RETRIES = 1
_KNOCK_S = 5.0
_CANCEL_S = 10.0  # for workers to close their files; a frame of a large network takes seconds
_STORE_BYTES = 80 << 20  # results are a few numbers; Ray takes a third of the memory otherwise

# for a cluster that is started here
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the one way to have Ray 2.60 listen on loopback
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers see the GPU that a runner may want
}


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is the same for all files."""

    choice: RunnerChoice
    out: Path
    made_by: str
    version: str
    """Of this package: another one in a worker might restore otherwise."""


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What came of one file."""

    video: RestoredVideo | None = None
    mode: str = ""
    error: MirnetEdgeError | None = None
    """Why there is no video."""
    warnings: tuple[str, ...] = ()


def restore_on_ray(
    videos: Sequence[Path],
    choice: RunnerChoice,
    out: Path,
    *,
    address: str | None = None,
    on_done: Callable[[RestoredVideo, str], None] = lambda video, mode: None,
    on_failed: Callable[[Path, VideoError], None] = lambda path, error: None,
) -> None:
    """Restore videos into a folder, as many at once as the cluster has CPUs for.

    A file whose worker is killed is begun once more, from its last finished segment. Ctrl-C, and
    what is raised here, ends the others; what they finished is kept.

    Args:
        videos: Files, of different stems.
        choice: The runner; its threads are the CPUs of one task. Where it leaves them open the
            files share what the cluster has.
        out: The folder; made where it is missing.
        address: Of a running cluster; None starts one on this machine, for as long as this takes,
            that nobody else reaches. Where the calling program has joined one, that is taken.
        on_done: Told each result and the mode that made it, in the order in which they are done.
        on_failed: Told each file that could not be restored; the others go on.

    Raises:
        MissingDependencyError: Ray is not installed.
        OptionError: Nobody answers at the address, or no machine has CPUs enough for one file.
        MirnetEdgeError: What no other file would fare better with.
    """
    with cluster(address) as ray:
        cpus = _cpus(ray, choice.threads, len(videos))
        # the mode that suits this machine is the mode of all: results are to be alike
        backend, _, precision = choice.runner().name.partition(":")
        there = replace(
            choice, bundle=choice.bundle.absolute(), threads=cpus,
            backend=backend, precision=precision,
        )  # fmt: skip
        task = _Task(
            choice=there, out=out.absolute(), made_by=choice.fingerprint(),
            version=version("mirnet-edge"),
        )  # fmt: skip
        remote = ray.remote(num_cpus=cpus, max_retries=_RETRIES)(_restore)
        waiting = {remote.remote(video.absolute(), task): video for video in videos}
        try:
            while waiting:
                ((ready, *_), _) = ray.wait(list(waiting), num_returns=1)
                video = waiting.pop(ready)
                _tell(video, _outcome(ray, ready, video), out, on_done, on_failed)
        except BaseException:
            _cancel(ray, list(waiting))
            raise


def _restore(video: Path, task: _Task) -> _Outcome:
    """Restore one video; runs in a worker."""
    found = version("mirnet-edge")
    if found != task.version:
        return _Outcome(
            error=MirnetEdgeError(
                f"a machine of the cluster has mirnet-edge {found}, this one {task.version}; "
                "install the same on all"
            )
        )
    with _warnings() as warnings:
        try:
            runner = task.choice.runner()
            warnings.clear()  # what is said of the bundle was said where the command runs
            done = restore_video(
                video, single_runner_restorer(runner), task.out, made_by=task.made_by
            )
        except MirnetEdgeError as error:
            return _Outcome(error=error, warnings=tuple(warnings))
    return _Outcome(video=done, mode=runner.name, warnings=tuple(warnings))


def _outcome(ray: ModuleType, ready: Any, video: Path) -> _Outcome:  # noqa: ANN401  # Ray's
    """Return what came of a file, a worker that died twice included."""
    try:
        outcome: _Outcome = ray.get(ready)
    except ray.exceptions.RayTaskError:  # a fault of ours: it carries the worker's traceback
        raise
    except ray.exceptions.RayError as error:
        lost = ray.exceptions
        died = isinstance(
            error, (lost.WorkerCrashedError, lost.OutOfMemoryError, lost.NodeDiedError)
        )
        what = "its worker died, and so did the one that took over" if died else "Ray gave it up"
        reason = " ".join(str(error).split())[:200]
        return _Outcome(
            error=VideoError(
                f"{video} was not restored: {what} ({reason}). Restore it alone with --engine "
                "local, or fewer at once with more --threads"
            )
        )
    return outcome


def _tell(
    video: Path,
    outcome: _Outcome,
    out: Path,
    on_done: Callable[[RestoredVideo, str], None],
    on_failed: Callable[[Path, VideoError], None],
) -> None:
    """Pass on what came of a file, under the names that were given."""
    for line in outcome.warnings:
        logger.warning("%s", line)
    if isinstance(outcome.error, VideoError):
        on_failed(video, outcome.error)
    elif outcome.error is not None:
        raise outcome.error
    elif outcome.video is not None:
        named = replace(outcome.video, source=video, output=out / outcome.video.output.name)
        on_done(named, outcome.mode)


def _cancel(ray: ModuleType, tasks: list[Any]) -> None:
    """End tasks and wait until they have closed their files."""
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_CANCEL_S)


@contextmanager
def cluster(address: str | None) -> Iterator[ModuleType]:
    """Give Ray, connected; where it was connected already it stays so afterwards.

    Args:
        address: Of a running cluster; None starts one on this machine, reached from here alone.

    Raises:
        MissingDependencyError: It is not installed.
        OptionError: Nobody answers at the address.
    """
    if address is None:
        os.environ.update(_ALONE)  # some are read by the import
    ray = require("ray", "--engine ray")
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(
            address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet
        )
        _check_is_alone(ray)
    else:
        advice = "start one with: ray start --head"
        try:
            _check_port(address)
            # somebody is there, and may want what `ray start` of 2.60 asks of those who join
            advice = "set RAY_AUTH_MODE=token, if it asks for one"
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise OptionError(
                f"--ray-address {address}: no Ray cluster can be joined there "
                f"({' '.join(str(error).split())[:200]}); {advice}"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Raise where nobody listens: Ray itself waits for minutes (2.60).

    Raises:
        OSError: Nobody does.
        ValueError: The port is no number.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:  # "auto" has neither
        socket.create_connection((place.hostname, place.port), timeout=_KNOCK_S).close()


def _check_is_alone(ray: ModuleType) -> None:
    """Refuse a cluster of ours that others reach: who reaches it may run what they like.

    Raises:
        OptionError: Ray was imported before it could be told.
    """
    (node,) = ray.nodes()
    address = node["NodeManagerAddress"]
    if not ipaddress.ip_address(address).is_loopback:
        ray.shutdown()
        raise OptionError(
            f"expected Ray to listen on this machine alone, found that it listens on {address}: it "
            "was imported too early. Import it later, or join a cluster of your own with ray.init"
        )


def _cpus(ray: ModuleType, threads: int | None, files: int) -> int:
    """Return how many CPUs one task takes: what was asked for, or a fair share.

    Raises:
        OptionError: No machine has as many.
    """
    machines = [
        int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]
    ]  # fmt: skip
    able = [cpus for cpus in machines if cpus >= max(1, threads or 1)]
    if not able:
        raise OptionError(
            f"--threads {threads or 1}: no machine of the Ray cluster has as many CPUs; the "
            f"largest has {max(machines, default=0)}"
        )
    return threads or max(1, min(min(able), sum(able) // max(1, files)))


class _WarningCollector(logging.Handler):
    """Keeps the messages of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what this package warns of while the block lasts."""
    collecting = _WarningCollector()
    package = logging.getLogger("mirnet_edge")
    package.addHandler(collecting)
    try:
        yield collecting.messages
    finally:
        package.removeHandler(collecting)
