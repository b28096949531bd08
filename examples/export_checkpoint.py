"""Export a checkpoint to a bundle with INT8 graphs, and print what the quality gate decided.

python examples/export_checkpoint.py checkpoint.safetensors calibration-images build/mine
"""

from __future__ import annotations

import sys
from pathlib import Path

from mirnet_edge.export.job import export_bundle
from mirnet_edge.export.workspace import ExportOptions


def main(weights: str, calibration: str, out: str) -> None:
    """Export WEIGHTS, calibrated on the images of a folder, to the bundle OUT."""
    options = ExportOptions(
        weights=weights, out=Path(out), int8=True, calibration=Path(calibration)
    )
    exported = export_bundle(options, on_stage=lambda stage: print(stage, file=sys.stderr))
    for one in exported.manifest.configurations:
        latency = f"{one.latency.p50_ms:.1f} ms" if one.latency else "not measured"
        print(f"{one.name}: {latency}, {'accepted' if one.accepted else one.reason}")
    print(f"default: {exported.manifest.default_configuration}")


if __name__ == "__main__":
    main(*sys.argv[1:])
