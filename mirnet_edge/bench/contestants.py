"""Who takes part in a benchmark, and how each is opened: in this process or in one of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mirnet_edge.bench.classical import baseline_named, baselines_for
from mirnet_edge.bench.record import Row
from mirnet_edge.bench.rivals import EXTRA_INPUTS, open_rival
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.files import sha256_of
from mirnet_edge.images import check_frames
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime.bundle import open_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from mirnet_edge.bench.classical import Baseline
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import Manifest, Mode
    from mirnet_edge.runtime.runner import Runner

Source = Literal["bundle", "rival", "baseline", "full mirnet"]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Someone to measure; cheap to make, and small enough to be told to another process."""

    source: Source
    path: str = ""
    """Of the bundle or the ONNX file; the method's name for a baseline."""
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None

    def runner(self) -> Runner:
        """Return what runs it; `with` opens it.

        Raises:
            MirnetEdgeError: It cannot run here; says why.
        """
        if self.source == "bundle":
            return open_bundle(self.path, self.backend, self.precision, threads=self.threads)
        if self.source == "rival":
            return open_rival(Path(self.path), threads=self.threads)
        if self.source == "baseline":
            return BaselineRunner(baseline_named(self.path))
        from mirnet_edge.bench.full_mirnet import FullMirnetRunner

        return FullMirnetRunner(threads=self.threads)

    def told(self) -> str:
        """Return it as text for another process."""
        return json.dumps(asdict(self))


def contestant_from(text: str) -> Contestant:
    """Return the contestant that `told` gave."""
    return Contestant(**json.loads(text))


class BaselineRunner:
    """A classical method as a runner."""

    multiple = 1

    def __init__(self, baseline: Baseline) -> None:
        """Wrap a method."""
        self._baseline = baseline
        self.name = baseline.name
        self.scale = 2 if "super-resolution" in baseline.tasks else 1

    def __enter__(self) -> BaselineRunner:
        """Open nothing: there is nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free nothing."""

    def run(self, frames: Frames) -> Frames:
        """Restore frames, (N, H, W, 3) uint8, one after the other."""
        import numpy as np

        check_frames(frames)
        return np.stack([self._baseline.restore(frame) for frame in frames])


def of_bundles(
    bundles: Sequence[Path], *, backends: Sequence[str] = (), threads: int | None = None
) -> list[tuple[Contestant, Row]]:
    """Return every mode of the bundles, with the facts of its row.

    Args:
        bundles: Folders.
        backends: Only these; all where none is named.
        threads: How many each may use; None leaves it to the backends.

    Raises:
        BundleError: One is no bundle.
        OptionError: Two have one name.
    """
    names = [bundle.resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        raise OptionError(
            f"two bundles have one name ({', '.join(names)}); expected a name for each. Rename one"
        )
    found = []
    for bundle, name in zip(bundles, names, strict=True):
        manifest = read_manifest(bundle)
        modes = [mode for mode in manifest.modes if not backends or mode.backend in backends]
        for mode in modes:
            contestant = Contestant(
                source="bundle",
                path=str(bundle),
                backend=mode.backend,
                precision=mode.precision,
                threads=threads,
            )
            found.append((contestant, _row_of(mode, manifest, name)))
        for backend in backends:
            if backend not in {mode.backend for mode in modes}:
                contestant = Contestant(
                    source="bundle", path=str(bundle), backend=backend, threads=threads
                )
                found.append((contestant, _absent(backend, manifest, name)))
    return found


def of_rivals(
    rivals: Sequence[Path], task: str | None, *, threads: int | None = None
) -> list[tuple[Contestant, Row]]:
    """Return rivals with the facts of their rows.

    Raises:
        EngineError: One is missing, or of a kind that we cannot feed; before anything is measured.
    """
    from mirnet_edge.bench.onnx_macs import count_macs

    found = []
    for path in rivals:
        open_rival(path)
        row = Row(
            name=path.stem,
            kind="rival",
            task=task,
            backend="onnxruntime",
            precision="fp32",
            state="measured",
            note=_bread_note(path),
            sha256=sha256_of(path),
            bytes_on_disk=path.stat().st_size,
            macs_640x480=count_macs(path, 480, 640),
        )
        found.append((Contestant(source="rival", path=str(path), threads=threads), row))
    names = [row.name for _, row in found]
    if len(set(names)) < len(names):
        raise EngineError(f"two rivals have one name ({', '.join(names)}); rename one")
    return found


def of_baselines(names: Sequence[str] | None, task: str | None) -> list[tuple[Contestant, Row]]:
    """Return classical methods with the facts of their rows.

    Args:
        names: Which; None for those of the task.
        task: What the networks do.

    Raises:
        OptionError: No such method.
    """
    if names is None:
        chosen = baselines_for(task) if task else []
    else:
        chosen = [baseline_named(name) for name in names]
    return [
        (
            Contestant(source="baseline", path=one.name),
            Row(
                name=one.name,
                kind="baseline",
                task=task,
                backend=None,
                precision=None,
                state="measured",
            ),
        )
        for one in chosen
    ]


def _row_of(mode: Mode, manifest: Manifest, name: str) -> Row:
    file = manifest.model.weights if mode.backend == "torch" else manifest.graph(mode.graph).onnx
    return Row(
        name=f"{name} {mode.name}",
        kind="bundle",
        task=manifest.model.task,
        backend=mode.backend,
        precision=mode.precision,
        state="measured",
        note="" if mode.adopted else f"not adopted by the gate: {mode.reason}",
        sha256=file.sha256,
        bytes_on_disk=file.size_bytes,
        macs_640x480=manifest.model.macs_640x480,
        adopted=mode.adopted,
    )


def _absent(backend: str, manifest: Manifest, name: str) -> Row:
    known = ", ".join(mode.name for mode in manifest.modes)
    return Row(
        name=f"{name} {backend}",
        kind="bundle",
        task=manifest.model.task,
        backend=backend,
        precision=None,
        state="missing",
        note=f"the bundle has no mode for {backend}; it has {known}",
    )


def _bread_note(path: Path) -> str:
    if not path.stem.startswith("bread"):
        return ""
    return ", ".join(f"{name} {value:g}" for name, value in EXTRA_INPUTS.items())
