"""Make the bundles that the package ships, from the weights that it ships.

    python -m mirnet_edge.export.shipping [NAME ...]

Without a name: those whose weights have changed since. A bundle holds the fp32 and the INT8 graph
for processors, context-anchored, and a manifest that names its weights by their SHA-256; the
weights themselves are in the package's folder of weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.checkpoints.store import list_shipped_weights, resolve
from mirnet_edge.errors import BundleError, MirnetEdgeError
from mirnet_edge.export.gate import find_fastest
from mirnet_edge.export.job import export_bundle
from mirnet_edge.export.workspace import ExportOptions
from mirnet_edge.files import replace_folder, sha256_of, write_atomically
from mirnet_edge.manifest import FILE_NAME, bind, read_manifest, to_json
from mirnet_edge.runtime.backends import find_backend
from mirnet_edge.runtime.shipped import FOLDER, PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirnet_edge.manifest import Manifest


def ship_bundle(
    name: str, folder: Path = FOLDER, on_stage: Callable[[str], None] = lambda what: None
) -> Path:
    """Export shipped weights to a bundle in the package, and return its folder.

    Args:
        name: NAME of `shipped:NAME`.
        folder: The package's folder of bundles.
        on_stage: Called with a few words as each stage begins.

    Raises:
        MirnetEdgeError: The weights cannot be exported, or the folder cannot be written.
    """
    weights = PREFIX + name
    with tempfile.TemporaryDirectory() as place:
        options = ExportOptions(
            weights=weights, out=Path(place) / name, target="cpu", anchored=True, int8=True
        )
        made = export_bundle(options, on_stage)
        manifest = _describe_without_weights(made.manifest, resolve(weights))
        with replace_folder(folder / name) as target:
            for graph in manifest.graphs:
                write_atomically(
                    target / graph.onnx.file, (made.bundle / graph.onnx.file).read_bytes()
                )
            write_atomically(target / FILE_NAME, to_json(manifest))
    return folder / name


def _describe_without_weights(manifest: Manifest, weights: Path) -> Manifest:
    """Return the manifest of a bundle whose weights are elsewhere: what runs them is left out."""
    configurations = [
        one for one in manifest.configurations if not find_backend(one.backend).runs_weights
    ]
    return manifest.model_copy(
        update={
            "model": manifest.model.model_copy(update={"weights": bind(weights)}),
            "graphs": [one for one in manifest.graphs if one.kept],
            "configurations": [one for one in configurations if manifest.graph(one.graph).kept],
            "default_configuration": find_fastest(configurations).name,
        }
    )


def is_current(name: str, folder: Path = FOLDER) -> bool:
    """Return whether the package's bundle was made from the weights that it ships."""
    try:
        bound = read_manifest(folder / name).model.weights
    except BundleError:
        return False
    return bound.sha256 == sha256_of(resolve(PREFIX + name))


def main(typed: Sequence[str] | None = None) -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", help="NAME of shipped:NAME; by default the changed")
    names = parser.parse_args(typed).names
    for name in names or [one for one in list_shipped_weights() if not is_current(one)]:
        started = time.monotonic()
        try:
            made = ship_bundle(name)
        except MirnetEdgeError as error:
            sys.exit(str(error))
        size = sum(file.stat().st_size for file in made.iterdir())
        print(f"{made}: {size:,} bytes, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
