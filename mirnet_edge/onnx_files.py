"""Write ONNX files, checked, atomic and deterministic, and read their constants."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

INPUT, OUTPUT = "frames", "restored"
CONTEXT_IN, SMOOTHING_WEIGHT, CONTEXT_OUT = "globals_in", "memory", "globals_out"
"""Further inputs and outputs of context-anchored graphs."""


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Check a model and write it as one file.

    Raises:
        GraphError: It is not valid ONNX.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(
            f"{path.name} is not valid ONNX: {str(error).splitlines()[0]}. Please report it"
        ) from error
    write_atomically(path, model.SerializeToString(deterministic=True))


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return a graph's constants, initializers and Constant nodes, by name."""
    from onnx import numpy_helper

    values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    values[node.output[0]] = numpy_helper.to_array(attribute.t)
    return values


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a deep copy of a model."""
    copy: onnx.ModelProto = type(model).FromString(model.SerializeToString())
    return copy


@contextlib.contextmanager
def suppress_library_output() -> Iterator[None]:
    """Suppress the progress and warnings of exporters and quantizers; exceptions pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def plain_feed(model: onnx.ModelProto, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs with which a graph restores frames with their own context vectors.

    Args:
        model: With frames as its first input; context-anchored or not.
        frames: The first input's value.

    Returns:
        The value of each input by name; those beside frames are zeros.
    """
    first, *others = model.graph.input
    feed = {first.name: frames}
    for value in others:
        # a dynamic side is the number of frames
        sides = [one.dim_value or len(frames) for one in value.type.tensor_type.shape.dim]
        feed[value.name] = np.zeros(sides, np.float32)
    return feed
