"""Whether a plan computes in the precision that its graph asks for.

TensorRT 11 dropped the flags that earlier scripts set, and `fp16=True` gave FP32 plans without a
word (rf-detr issue 1453, 2026). Here the engine inspector's layers are read after each build.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirnet_edge.manifest import Precision

# How the inspector writes a type, within texts like "Row major linear FP16 format"
_TYPES = (("int8", "int8"), ("fp16", "fp16"), ("half", "fp16"), ("bf16", "bf16"),
          ("fp32", "fp32"), ("float", "fp32"))  # fmt: skip
# The precision that most of the convolutions of such a graph must have
_EXPECTED: dict[str, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8+fp16": "int8"}


def convolutions(information: str, name: str) -> dict[str, int] | None:
    """Return how many convolutions of a plan compute in which precision.

    Args:
        information: What the engine inspector gives as JSON. Its keys changed with TensorRT 11;
            both are read.
        name: Of the plan, for messages.

    Returns:
        None where the inspector tells no types, as TensorRT-RTX's may not.

    Raises:
        EngineError: Not JSON.
    """
    try:
        document = json.loads(information)
    except ValueError as error:
        raise EngineError(
            f"{name}: the engine inspector's text is not JSON ({error}); please report it with "
            "TensorRT's version"
        ) from error
    found = Counter(_precision(layer) for layer in _layers(document) if _is_convolution(layer))
    found.pop(None, None)
    return {str(kind): count for kind, count in found.items()} or None


def require_precision(
    delivered: dict[str, int] | None, asked: Precision, name: str
) -> dict[str, int] | None:
    """Return what was delivered if its convolutions mostly have the precision that was asked for.

    Mostly: our INT8 graphs leave in float what decides about the whole frame.

    Raises:
        EngineError: They do not.
    """
    if not delivered or asked not in _EXPECTED:
        return delivered
    if delivered.get(_EXPECTED[asked], 0) * 2 < sum(delivered.values()):
        counts = ", ".join(f"{count} in {kind}" for kind, count in sorted(delivered.items()))
        raise EngineError(
            f"{name}: asked for {asked}, but TensorRT built its convolutions as {counts}. The "
            "plan is not used; export again, and report it if that does not help"
        )
    return delivered


def _layers(document: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  # JSON
    layers = document.get("Layers", []) if isinstance(document, dict) else []
    return (layer for layer in layers if isinstance(layer, dict))


def _is_convolution(layer: dict[str, Any]) -> bool:
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
    return "conv" in kind


def _precision(layer: dict[str, Any]) -> str | None:
    """Return what a layer reads, which is what it computes in."""
    inputs = layer.get("Inputs") or []
    for entry in inputs if isinstance(inputs, list) else []:
        if isinstance(entry, dict):
            said = str(entry.get("Format/Datatype", entry.get("Datatype", ""))).lower()
            for text, kind in _TYPES:
                if text in said:
                    return kind
    return None
