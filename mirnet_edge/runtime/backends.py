"""The backends: one row for each runtime library that runs bundles, and the registry of the rows.

A row is a constant of the module that holds the backend's runner, `BACKEND`, or an entry of a
table of such rows. To add a backend, write such a module and name it in `_ROWS`; a program of your
own calls `register_backend` instead. Export, quality gate, `open_bundle`, benchmarks,
`mirnet-doctor`, `mirnet-plan`, the command line's help and the README's table all read these rows
and nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from mirnet_edge.dependencies import advice, available, require
from mirnet_edge.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

    from mirnet_edge.manifest import (
        Configuration,
        EngineFacts,
        GraphFacts,
        ImageContract,
        Manifest,
        Precision,
        Target,
    )
    from mirnet_edge.runtime.runner import Runner

AUTO = "auto"
"""Stands for the backend or the precision that suits this machine."""

DeviceKind = Literal["cpu", "gpu", "npu"]

# module:constant, where the constant is the row, or a table that has it under its name
_PROVIDERS = "mirnet_edge.runtime.onnxruntime_runner:PROVIDER_BACKENDS"
_OPENVINO_DEVICES = "mirnet_edge.runtime.openvino_runner:DEVICE_BACKENDS"
_ROWS = {
    "onnxruntime": "mirnet_edge.runtime.onnxruntime_runner:BACKEND",
    "openvino": "mirnet_edge.runtime.openvino_runner:BACKEND",
    "torch": "mirnet_edge.runtime.torch_runner:BACKEND",
    "tensorrt": "mirnet_edge.runtime.tensorrt.runner:BACKEND",
    "litert": "mirnet_edge.runtime.litert_runner:BACKEND",
    "openvino-gpu": _OPENVINO_DEVICES,
    "openvino-npu": _OPENVINO_DEVICES,
    "openvino-auto": _OPENVINO_DEVICES,
    "onnxruntime-cuda": _PROVIDERS,
    "onnxruntime-tensorrt": _PROVIDERS,
    "onnxruntime-tensorrt-rtx": _PROVIDERS,
    "onnxruntime-openvino": _PROVIDERS,
    "onnxruntime-directml": _PROVIDERS,
    "onnxruntime-webgpu": _PROVIDERS,
    "onnxruntime-coreml": _PROVIDERS,
    "onnxruntime-migraphx": _PROVIDERS,
    "onnxruntime-rocm": _PROVIDERS,
    "onnxruntime-xnnpack": _PROVIDERS,
}


class RunnerFactory(Protocol):
    """Makes the runner of a graph or of weights, not opened yet; a runner's class is one."""

    def __call__(  # noqa: D102  # above
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        threads: int | None = None,
    ) -> Runner: ...


class EngineRunnerFactory(Protocol):
    """Makes the runner of an engine that was built from a graph, not opened yet."""

    def __call__(  # noqa: D102  # above
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        engine: EngineFacts,
        graph: GraphFacts,
    ) -> Runner: ...


@dataclass(frozen=True)
class BackendCheck:
    """The state of a backend on this machine."""

    state: Literal["ok", "note", "missing"]
    """`missing` keeps something from working; `note` makes it slower or less."""
    found: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Backend:
    """A backend: its packages, runner, precisions, execution provider, and its rank for `auto`."""

    name: str
    """In manifests, in `--backend` and before the colon of a configuration's name."""
    title: str
    """As its authors write it."""
    packages: tuple[str, ...]
    """It is installed where one of these can be imported."""
    extra: str | None
    """The extra of mirnet-edge that installs it, None for the package itself."""
    device: DeviceKind
    provider: str
    """The execution provider, or what the library calls the device that it computes on."""
    precisions: tuple[Precision, ...]
    """What it can compute in on some machine, preferred first where nothing is measured. fp32 is
    among them: every latency is compared with it."""
    auto_reason: str
    """When `auto` chooses it, and why."""
    runner: RunnerFactory
    """Makes the runner of a graph; of a weights file where `runs_weights`."""
    auto_rank: int = 0
    """Of the backends that run here, `auto` takes the highest rank; latency decides in a rank."""
    target: Target = "cpu"
    """Which graphs of a bundle are made for it."""
    runs_weights: bool = False
    """Whether it runs the weights file, not a graph."""
    derived_precisions: Mapping[Precision, tuple[Precision, ...]] = field(default_factory=dict)
    """Precisions it also computes a graph in, by the precision of the graph."""
    supports_here: Callable[[Precision], bool] = lambda precision: True
    """Whether this machine has one of `precisions`. The package is installed when it is called."""
    engine_runner: EngineRunnerFactory | None = None
    """Makes the runner of an engine, where the backend runs engines. `runner` then simulates it at
    the quality gate: the output is compared, the latency is not measured."""
    find_obstacle: Callable[[Configuration, Manifest], str | None] | None = None
    """Why a configuration does not run here, None where it does; for what `obstacle` cannot tell
    from the packages and precisions."""
    check_installation: Callable[[], BackendCheck] | None = None
    """The state on this machine, where it takes more than importing the package."""
    find_machine_obstacle: Callable[[], str | None] = lambda: None
    """Why this machine lacks what it computes on, None where it is there. The package is installed
    when it is called."""
    systems: tuple[str, ...] = ("Linux", "Windows", "Darwin")
    """Where it exists, as `platform.system()` calls them."""
    added_here: Literal["never", "named", "always"] = "never"
    """When `open_bundle` adds its configurations to bundles that were exported without it: where it
    is asked for, or wherever it computes. They are compared with ONNX Runtime on this machine
    first, and timed. An export measures none that is for those who name it."""

    def __post_init__(self) -> None:
        """Refuse a row that the quality gate could not use.

        Raises:
            OptionError: It has no fp32.
        """
        if "fp32" not in self.precisions:
            raise OptionError(
                f"the backend {self.name} must compute fp32, which other precisions are compared "
                f"with, found {', '.join(self.precisions) or 'no precision'}; add it"
            )

    @property
    def install(self) -> str:
        """Return the command that installs it."""
        return advice(self.packages[0], self.extra)

    @property
    def exists_here(self) -> bool:
        """Return whether there is a form of it for this operating system."""
        return platform.system() in self.systems

    @property
    def is_installed(self) -> bool:
        """Return whether one of its packages is installed; nothing is imported."""
        return any(available(package) for package in self.packages)

    def require(self) -> ModuleType:
        """Import its package.

        Raises:
            MissingDependencyError: It is not installed, or cannot be loaded.
        """
        return require(self.packages[0], f"the backend {self.name}", self.extra)

    def supports(self, precision: Precision) -> bool:
        """Return whether it computes in a precision on this machine.

        Raises:
            MissingDependencyError: It has to be imported to tell, and cannot be.
        """
        return precision in self.precisions and self.supports_here(precision)

    def obstacle(self, configuration: Configuration, manifest: Manifest) -> str | None:
        """Return in one line why a configuration does not run here, None where it does."""
        if self.find_obstacle is not None:
            return self.find_obstacle(configuration, manifest)
        missing = self.machine_obstacle()
        if missing is None and not self.supports(configuration.precision):
            return f"this {self._computing} has no {configuration.precision} in {self.name}"
        return missing

    def machine_obstacle(self) -> str | None:
        """Return in one line why it computes nothing on this machine, None where it does."""
        if not self.is_installed:
            return f"{self.name} is not installed: {self.install}"
        return self.find_machine_obstacle()

    @property
    def _computing(self) -> str:
        return "processor" if self.device == "cpu" else self.device.upper()

    def check(self) -> BackendCheck:
        """Return its state on this machine; it is imported."""
        if self.check_installation is not None:
            return self.check_installation()
        try:
            module = self.require()
            missing = self.find_machine_obstacle()
            if missing is not None:
                return BackendCheck("note", missing)
            here = ", ".join(one for one in self.precisions if self.supports(one))
        except MissingDependencyError as error:
            is_needed = self.extra is None or self.is_installed
            return BackendCheck("missing" if is_needed else "note", str(error))
        return BackendCheck("ok", f"{getattr(module, '__version__', 'no version')}, {here}")


_registered: dict[str, Backend] = {}


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends; nothing is imported."""
    return tuple(dict.fromkeys((*_ROWS, *_registered)))


def all_backends() -> list[Backend]:
    """Return the rows of all backends; no runtime library is imported."""
    return [find_backend(name) for name in backend_names()]


def find_backend(name: str) -> Backend:
    """Return the row of the backend of that name.

    Raises:
        OptionError: There is none; names those that there are.
    """
    if name in _registered:
        return _registered[name]
    if name in _ROWS:
        module, _, constant = _ROWS[name].partition(":")
        found = getattr(importlib.import_module(module), constant)
        row: Backend = found[name] if isinstance(found, dict) else found
        return row
    raise OptionError(
        f"--backend must be {AUTO} or one of {', '.join(backend_names())}, found {name!r}"
        f"{_suggest(name)}"
    )


def register_backend(backend: Backend) -> None:
    """Add a backend to this process; one of the same name is replaced."""
    _registered[backend.name] = backend


@contextlib.contextmanager
def temporary_backends(*backends: Backend) -> Iterator[None]:
    """Add backends for the length of a `with` block; those of the same names are replaced."""
    former = dict(_registered)
    try:
        for backend in backends:
            register_backend(backend)
        yield
    finally:
        _registered.clear()
        _registered.update(former)


def preferred_backend(device: DeviceKind) -> Backend:
    """Return the backend that `auto` prefers on a kind of device where nothing was measured.

    Raises:
        OptionError: No backend computes on such a device.
    """
    fitting = [backend for backend in all_backends() if backend.device == device]
    if not fitting:
        raise OptionError(f"no backend computes on a {device}; expected one of cpu and gpu")
    return max(fitting, key=lambda backend: backend.auto_rank)


def unknown_backend_text(name: str, made_by: str | None = None) -> str:
    """Return the message about a backend of a manifest that is not registered.

    Args:
        name: The backend.
        made_by: The version of mirnet-edge that made the bundle, where it is known.
    """
    version = f"=={made_by}" if made_by else ""
    return (
        f"expected one of the backends {', '.join(backend_names())}, found {name!r}: install the "
        f"mirnet-edge that made the bundle (pip install mirnet-edge{version}), or add the backend "
        "with mirnet_edge.runtime.backends.register_backend"
    )


def markdown_table() -> str:
    """Return the table of backends as the README shows it."""
    lines = ["| backend | library | computes on | precisions | installed by | `auto` chooses it |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| `{one.name}` | {one.title} | {one.device.upper()} (`{one.provider}`) | "
        f"{', '.join(one.precisions)} | {f'`{one.extra}`' if one.extra else 'mirnet-edge itself'} "
        f"| {one.auto_reason} |"
        for one in all_backends()
    ]
    return "\n".join(lines)


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, backend_names(), 1)
    return f"; did you mean {close[0]}?" if close else ""
