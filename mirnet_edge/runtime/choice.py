"""Which runner is wanted: said once, so that another process can open the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.runtime.runner import Runner


@dataclass(frozen=True, kw_only=True)
class RunnerChoice:
    """A bundle and how it is to be run. Can be pickled."""

    bundle: Path
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """None leaves it to the backend."""
    tile: tuple[int, int] | Literal["auto"] | None = None
    """(height, width) of a tile; "auto" for the graph's size or what the memory allows; None for
    whole frames, unless `max_memory_mib` is given."""
    max_memory_mib: int | None = None
    """What one run may take beside the frames."""

    def runner(self) -> Runner:
        """Return the runner, not opened yet.

        Raises:
            BundleError: No bundle, a changed file, or no mode that fits.
            OptionError: A value that makes no sense.
        """
        from mirnet_edge.runtime.bundle import open_bundle
        from mirnet_edge.runtime.tiling import tiled

        runner = open_bundle(self.bundle, self.backend, self.precision, threads=self.threads)
        if self.tile is None and self.max_memory_mib is None:
            return runner
        size = None if self.tile == "auto" else self.tile
        return tiled(runner, tile=size, max_memory_mib=self.max_memory_mib)

    def fingerprint(self) -> str:
        """Return what, beside the runner's mode, decides the pixels: the bundle's digest, tiles."""
        from mirnet_edge.files import sha256_of
        from mirnet_edge.manifest import FILE_NAME

        return f"{sha256_of(self.bundle / FILE_NAME)} {self.tile} {self.max_memory_mib}"
