"""Delivered precision: what engine inspectors of both generations say, and the verdict.

The layers are written after NVIDIA's documentation of the inspector (10.x and 11.x); no GPU was at
hand to record them.
"""

from __future__ import annotations

import json

import pytest

from mirnet_edge.errors import EngineError
from mirnet_edge.runtime.tensorrt.build import count_convolutions, require_precision


def _layer(datatype, *, kind="CaskConvolution", **more):
    return {
        "Name": "conv", "LayerType": kind, "ParameterType": "Convolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 8, 4, 4], "Format/Datatype": datatype}], **more,
    }  # fmt: skip


def _told(*layers, **more):
    return json.dumps({"Layers": list(layers), **more})


@pytest.mark.parametrize("key", ["Bindings", "I/O Tensors"], ids=["10.x", "11.x"])
def test_the_convolutions_are_counted_by_what_they_read(key):
    told = _told(
        _layer("Thirty-two wide channel vectorized row major Int8 format"),
        _layer("Row major Int8 format"),
        _layer("Channel major FP16 format where channel % 8 == 0"),
        _layer("Row major linear FP32"),
        {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
        **{key: ["frames", "restored"]},
    )
    assert count_convolutions(told, "net") == {"int8": 2, "fp16": 1, "fp32": 1}


@pytest.mark.parametrize(
    "told",
    [_told(), _told("conv1 + relu"), _told({"LayerType": "Myelin"}), "[]",
     _told(_layer(""), {"LayerType": "conv", "Inputs": None})],
    ids=["no layers", "names only", "one block", "a list", "no types"],
)  # fmt: skip
def test_an_inspector_without_types_tells_nothing(told):
    assert count_convolutions(told, "net") is None


def test_text_that_is_no_json_is_an_error():
    with pytest.raises(EngineError, match="net: the engine inspector's text is not JSON"):
        count_convolutions("Layer 0", "net")


@pytest.mark.parametrize(
    ("asked", "delivered"),
    [("fp32", {"fp32": 9}), ("fp16", {"fp16": 9, "fp32": 2}), ("int8", {"int8": 7, "fp32": 5}),
     ("int8+fp16", {"int8": 7, "fp16": 5}), ("fp16", None)],
)  # fmt: skip
def test_what_was_asked_for_passes(asked, delivered):
    assert require_precision(delivered, asked, "net") == delivered


@pytest.mark.parametrize(
    ("asked", "delivered"),
    [("fp16", {"fp32": 9}), ("int8", {"fp16": 9, "int8": 2}), ("int8+fp16", {"fp32": 3}),
     ("fp32", {"fp16": 9})],
)  # fmt: skip
def test_another_precision_fails_with_its_counts(asked, delivered):
    with pytest.raises(EngineError, match=f"expected {asked.replace('+', '.')}.*in ") as caught:
        require_precision(delivered, asked, "fp16.onnx")
    assert all(f"{count} in {kind}" in str(caught.value) for kind, count in delivered.items())
