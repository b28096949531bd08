"""What binds a bundle: `manifest.json`, its schema, and reading it without trusting it.

A bundle is a folder: `manifest.json`, the ONNX files, the weights, engines beside them. Every
file is bound by its SHA-256, so a later stage can refuse a changed one.
"""

from __future__ import annotations

from mirnet_edge.manifest.folder import FILE_NAME, bind, checked_path, read_manifest, to_json
from mirnet_edge.manifest.schema import (
    SCHEMA_VERSION,
    Backend,
    BoundFile,
    CalibrationFacts,
    Document,
    EngineFacts,
    GateFacts,
    Graph,
    ImageContract,
    Latency,
    MachineFacts,
    Manifest,
    Mode,
    ModelFacts,
    PooledVector,
    Precision,
    Quality,
    Quantization,
    Thumbnail,
    TimingCache,
)

__all__ = [
    "FILE_NAME",
    "SCHEMA_VERSION",
    "Backend",
    "BoundFile",
    "CalibrationFacts",
    "Document",
    "EngineFacts",
    "GateFacts",
    "Graph",
    "ImageContract",
    "Latency",
    "MachineFacts",
    "Manifest",
    "Mode",
    "ModelFacts",
    "PooledVector",
    "Precision",
    "Quality",
    "Quantization",
    "Thumbnail",
    "TimingCache",
    "bind",
    "checked_path",
    "read_manifest",
    "to_json",
]
