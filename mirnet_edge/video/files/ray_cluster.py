"""Restore many videos on a Ray cluster: one task per file, which calls `restore_video`.

    restore_on_ray ─► one task per file ─► restore_video, in a worker process
                   ◄─ RestoredVideo or an error, and warnings

The videos, the bundle and the output folder must have the same paths on every machine of the
cluster: frames are exchanged through files, not through Ray.
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
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from mirnet_edge.runtime.bundle import RunnerChoice

logger = logging.getLogger(__name__)

_RETRIES = 1
_CONNECT_S = 5.0
_CANCEL_S = 10.0  # for workers to close their files; a frame of a large network takes seconds
_OBJECT_STORE_BYTES = 80 << 20  # results are small; by default Ray takes a third of the memory

# for a cluster that is started here
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the only way to make Ray 2.60 listen on loopback
    "RAY_USAGE_STATS_ENABLED": "0",  # sends no usage data
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers see the GPU
}


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The options that all files share."""

    choice: RunnerChoice
    fingerprint: str
    overwrite: bool
    version: str
    """Of this package; a worker must have the same."""


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """The result of one file."""

    video: RestoredVideo | None = None
    configuration: str = ""
    error: Exception | None = None
    """The reason where there is no video."""
    concerns_all: bool = False
    """Whether every other file would have the error too."""
    warnings: tuple[str, ...] = ()


def restore_on_ray(
    videos: Sequence[Path],
    choice: RunnerChoice,
    out: Path,
    *,
    outputs: Mapping[Path, Path] | None = None,
    overwrite: bool = True,
    address: str | None = None,
    on_done: Callable[[RestoredVideo, str], None] = lambda video, configuration: None,
    on_failed: Callable[[Path, Exception], None] = lambda path, error: None,
) -> None:
    """Restore videos into a folder, as many at once as the cluster has CPUs for.

    A file whose worker is killed is tried once more, from its last finished segment. Ctrl-C or an
    error cancels the other tasks; their finished segments are kept.

    Args:
        videos: Files, of different stems.
        choice: The runner; its threads are the CPUs per task. Where it has none, the files share
            the cluster's CPUs.
        out: The folder; created where it is missing.
        outputs: The result of each video, where it is another than its name in OUT; its suffix is
            replaced where the container cannot be written.
        overwrite: False refuses to replace files that are there.
        address: Of a running cluster; None starts one for the duration of the call, which only
            this machine can reach. Where the calling program is connected to one, that is used.
        on_done: Called with each result and its configuration, in order of completion.
        on_failed: Called with each file that could not be restored; the others continue.

    Raises:
        MissingDependencyError: Ray is not installed.
        OptionError: There is no cluster at the address, or no machine has enough CPUs for one file.
        MirnetEdgeError: An error that every other file would have too.
    """
    with connect_ray(address) as ray:
        cpus = _cpus_per_task(ray, choice.threads, len(videos))
        # this machine's choice of configuration is used for all, so that results are alike
        task = _Task(
            choice=replace(choice.choose_configurations(), threads=cpus),
            fingerprint=choice.fingerprint(), overwrite=overwrite, version=version("mirnet-edge"),
        )  # fmt: skip
        remote = ray.remote(num_cpus=cpus, max_retries=_RETRIES)(_restore)
        targets = {video: (outputs or {}).get(video, out / video.name) for video in videos}
        waiting = {
            remote.remote(video.absolute(), target.absolute(), task): video
            for video, target in targets.items()
        }
        try:
            while waiting:
                ((ready, *_), _) = ray.wait(list(waiting), num_returns=1)
                video = waiting.pop(ready)
                outcome = _read_outcome(ray, ready, video)
                _report(video, outcome, targets[video].parent, on_done, on_failed)
        except BaseException:
            _cancel(ray, list(waiting))
            raise


def _restore(video: Path, target: Path, task: _Task) -> _Outcome:
    """Restore one video, in a worker process."""
    found = version("mirnet-edge")
    if found != task.version:
        return _Outcome(
            error=MirnetEdgeError(
                f"expected mirnet-edge {task.version} on every machine of the cluster, found "
                f"{found}; install the same version on all"
            ),
            concerns_all=True,
        )
    with _collect_warnings() as warnings:
        try:
            runner = task.choice.runner()
            warnings.clear()  # the bundle's warnings were shown where the command runs
            done = restore_video(
                video, single_runner_restorer(runner), target.parent, name=target.name,
                overwrite=task.overwrite, fingerprint=task.fingerprint,
            )  # fmt: skip
        except MirnetEdgeError as error:
            return _Outcome(error=error, warnings=tuple(warnings))
    return _Outcome(video=done, configuration=runner.name, warnings=tuple(warnings))


def _read_outcome(ray: ModuleType, ready: Any, video: Path) -> _Outcome:  # noqa: ANN401  # Ray's
    """Return the outcome of a file, also where its worker was killed twice."""
    try:
        outcome: _Outcome = ray.get(ready)
    except ray.exceptions.RayTaskError as error:  # a bug: it has the worker's traceback
        return _Outcome(error=error.cause if isinstance(error.cause, Exception) else error)
    except ray.exceptions.RayError as error:
        errors = ray.exceptions
        was_killed = isinstance(
            error, (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError)
        )
        what = "two workers were killed" if was_killed else "Ray canceled it"
        reason = " ".join(str(error).split())[:200]
        return _Outcome(
            error=VideoError(
                f"{video} was not restored: {what} ({reason}). Restore it alone with --engine "
                "local, or fewer videos at once with more --threads"
            )
        )
    return outcome


def _report(
    video: Path,
    outcome: _Outcome,
    out: Path,
    on_done: Callable[[RestoredVideo, str], None],
    on_failed: Callable[[Path, Exception], None],
) -> None:
    """Report the outcome of a file, with the paths as they were given."""
    for line in outcome.warnings:
        logger.warning("%s", line)
    if outcome.error is not None:
        if outcome.concerns_all:
            raise outcome.error
        on_failed(video, outcome.error)
    elif outcome.video is not None:
        named = replace(outcome.video, source=video, output=out / outcome.video.output.name)
        on_done(named, outcome.configuration)


def _cancel(ray: ModuleType, tasks: list[Any]) -> None:
    """Cancel tasks and wait until they have closed their files."""
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_CANCEL_S)


@contextmanager
def connect_ray(address: str | None) -> Iterator[ModuleType]:
    """Connect to Ray while the block lasts; an existing connection is used and kept.

    Args:
        address: Of a running cluster; None starts one that only this machine can reach.

    Raises:
        MissingDependencyError: It is not installed.
        OptionError: There is no cluster at the address.
    """
    if address is None:
        os.environ.update(_LOCAL_ENVIRONMENT)  # some are read at import
    ray = require("ray", "--engine ray")
    if ray.is_initialized():
        yield ray
        return
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **options,
        )
        _check_loopback(ray)
    else:
        advice = "start one with: ray start --head"
        try:
            _check_port(address)
            # something listens there; Ray 2.60's `ray start` may require a token
            advice = "set RAY_AUTH_MODE=token, if the cluster requires a token"
            ray.init(address=address, **options)
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
    """Raise where nothing listens: Ray itself would wait for minutes (2.60).

    Raises:
        OSError: Nothing listens.
        ValueError: The port is not a number.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:  # "auto" has neither
        socket.create_connection((place.hostname, place.port), timeout=_CONNECT_S).close()


def _check_loopback(ray: ModuleType) -> None:
    """Raise where the local cluster can be reached by others, who could run any code on it.

    Raises:
        OptionError: Ray was imported before its environment was set.
    """
    (node,) = ray.nodes()
    address = node["NodeManagerAddress"]
    if not ipaddress.ip_address(address).is_loopback:
        ray.shutdown()
        raise OptionError(
            f"expected Ray to listen on loopback only, found {address}: it was imported too early. "
            "Import it later, or connect to your own cluster with ray.init"
        )


def _cpus_per_task(ray: ModuleType, threads: int | None, files: int) -> int:
    """Return the CPUs of one task: the requested number, or a fair share.

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
    """A handler that keeps the messages of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect this package's warnings while the block lasts."""
    collector = _WarningCollector()
    package = logging.getLogger("mirnet_edge")
    package.addHandler(collector)
    try:
        yield collector.messages
    finally:
        package.removeHandler(collector)
