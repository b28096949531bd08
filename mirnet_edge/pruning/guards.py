"""Refusing what would not fit into memory, before it is begun."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mirnet_edge.errors import OptionError
from mirnet_edge.images import size_text
from mirnet_edge.pruning.timing import OPEN_GRAPHS

if TYPE_CHECKING:
    from torch import nn

_GIB = 2.0**30
_MEMORY_FILE = Path("/proc/meminfo")
# Of what the modules put out: sums and products between them are kept for the gradients too. What
# a step of a MIRNet of 16 channels took, by its peak: 1.45 times (4 crops of 96), 1.42 (192).
_TRAINING = 1.5
# Of the largest of these: what a runtime holds for a whole network, which is several at once and,
# in ONNX Runtime, an arena that grows in powers of two. A MIRNet of 16 channels took 5.0 times in
# OpenVINO (640x480 and 256x192), 30 in ONNX Runtime (256x192).
_RUNNING = {"openvino": 6.0, "onnxruntime": 32.0}
_BLOCK = 8.0  # the same of a block alone; not measured
_GRAPH = 90 * 2.0**20  # of each open graph, whatever the frame; 81 MiB were measured


def require_memory(
    network: nn.Module, *, backend: str, size: tuple[int, int], batch: int, crop: int
) -> None:
    """Refuse frames and crops for which there is no memory; does nothing where nobody tells it.

    Nothing is computed: a copy of the network runs on the meta device.

    Args:
        network: What is to be timed and trained.
        backend: What times it.
        size: (height, width) of the frame that is timed.
        batch: Crops in a training step.
        crop: Their side.

    Raises:
        OptionError: It would not fit; says how much there is.
    """
    free = available_bytes()
    if free is None:
        return
    step = batch * _TRAINING * sum(_outputs(network, (crop, crop)))
    if step > free:
        raise OptionError(
            f"a step on {batch} crops of {crop} takes about {step / _GIB:.1f} GiB, "
            f"{free / _GIB:.1f} GiB are free; choose a smaller --crop or --batch"
        )
    # whole networks of one trunk are the first two rows; of MIRNetEdge, all rows are
    config: Any = network.config
    whole = OPEN_GRAPHS if isinstance(config.channels, tuple) else 2
    times = whole * _RUNNING[backend] + (OPEN_GRAPHS - whole) * _BLOCK
    table = times * max(_outputs(network, size)) + OPEN_GRAPHS * _GRAPH
    if table > free:
        raise OptionError(
            f"timing frames of {size_text(*size)} takes about {table / _GIB:.1f} GiB, "
            f"{free / _GIB:.1f} GiB are free; choose a smaller --size: what is won is about the "
            "same"
        )


def available_bytes(file: Path = _MEMORY_FILE) -> int | None:
    """Return the memory that programs can still have; None where the system does not say."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:  # another system than Linux
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _outputs(network: nn.Module, size: tuple[int, int]) -> list[int]:
    """Return the bytes of what each module puts out for one frame, every time it runs."""
    found: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401  # as modules have it
        del module, inputs
        if isinstance(output, torch.Tensor):
            found.append(output.numel() * output.element_size())

    blank = copy.deepcopy(network).to("meta")
    for module in blank.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    channels = getattr(network.config, "in_channels", 3)
    with torch.no_grad():
        blank(torch.empty(1, channels, *size, device="meta"))
    return found
