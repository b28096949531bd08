"""The networks, each in a module that reads from top to bottom."""

from __future__ import annotations

from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config

__all__ = [
    "MIRNet",
    "MIRNetConfig",
    "MIRNetEdge",
    "MIRNetEdgeConfig",
    "MIRNetV2",
    "MIRNetV2Config",
]
