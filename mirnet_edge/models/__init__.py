"""The networks: MIRNet, MIRNet-v2, MIRNetEdge; their inference form and context-anchored form."""

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
