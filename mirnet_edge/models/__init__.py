"""The networks: MIRNet, MIRNet-v2, Keras MIRNet, MIRNetEdge, and the forms they are deployed in."""

from __future__ import annotations

from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.keras_mirnet import KerasMIRNet, KerasMIRNetConfig
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config

__all__ = [
    "KerasMIRNet",
    "KerasMIRNetConfig",
    "MIRNet",
    "MIRNetConfig",
    "MIRNetEdge",
    "MIRNetEdgeConfig",
    "MIRNetV2",
    "MIRNetV2Config",
]
