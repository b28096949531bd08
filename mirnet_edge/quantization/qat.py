"""Quantization-aware training (QAT): fake quantization that exports as plain INT8 Q/DQ.

    network ─prepare_qat─► ─train─► ─make_deployable_network─► ─export_onnx─► INT8 Q/DQ graph

Weights: symmetric, per output channel, from their own largest value at every step. Activations:
symmetric, one scale per convolution, learned (Esser et al., "Learned Step Size Quantization",
ICLR 2020), as its logarithm, so that a step of the optimizer changes each by the same fraction.
Rounding passes gradients straight through (Bengio et al., 2013). How many steps there are depends
on what the weights are deployed on: `QAT_SCHEMES`. Graphs for processors get the learned ranges
(`learned_ranges_of`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from mirnet_edge.errors import OptionError
from mirnet_edge.models.edge import ExposureBranch, PixelHead, UnshuffledConv
from mirnet_edge.models.inference_form import SplitHead, strided_from_unshuffled
from mirnet_edge.models.mirnet_v2 import ContextModule
from mirnet_edge.quantization.ptq import outliers_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirnet_edge.quantization import QatTarget


@dataclass(frozen=True)
class QatScheme:
    """The INT8 quantization that training simulates; `ptq` has the graphs that deploy it."""

    weight_levels: int
    """Largest weight, in steps."""
    is_unsigned: bool
    """Whether activations that are never negative have 256 steps above 0, instead of 128."""


QAT_SCHEMES: dict[QatTarget, QatScheme] = {
    "tensorrt": QatScheme(127, is_unsigned=False),
    # seven bits for weights, as `ptq.quantize_for_cpu` says
    "cpu": QatScheme(63, is_unsigned=True),
}
_SIGNED, _UNSIGNED = (-128, 127), (0, 255)
_SMALLEST_SCALE = 1e-8
_RANGE_FROM_CONTRACT = ("stem",)  # sees the frame, whose 256 levels are the steps
_Conv = TypeVar("_Conv", bound=nn.Conv2d)


class _StraightThroughRound(torch.autograd.Function):
    """Round, with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ANN401  # torch's
        del ctx
        return value.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        del ctx
        return gradients[0]


class _GradientScaled(torch.autograd.Function):
    """Return the value, and scale its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, share: float) -> Tensor:  # noqa: ANN401
        ctx.share = share
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradients[0] * ctx.share, None


def fake_quantize(value: Tensor, scale: Tensor, ends: tuple[int, int] = _SIGNED) -> Tensor:
    """Return VALUE rounded as INT8 rounds it: to steps of SCALE, the first and last being ENDS.

    The gradient reaches the value where it is inside the range, and the scale: by the rounding
    error inside the range, by the sign outside.
    """
    steps = (value / scale).clamp(*ends)
    rounded: Tensor = _StraightThroughRound.apply(steps)  # type: ignore[no-untyped-call]
    return rounded * scale


def compute_weight_scales(weight: Tensor, levels: int) -> Tensor:
    """Return the steps of a convolution's weight, one per output channel, of LEVELS each."""
    return weight.detach().abs().amax((1, 2, 3)).clamp_min(_SMALLEST_SCALE) / levels


class FakeQuantizer(nn.Module):
    """Fake quantization of a convolution's input and weight, with a learned input scale."""

    def __init__(self, target: QatTarget = "tensorrt", *, is_learned: bool = True) -> None:
        """Start with a scale of 1; between `start_observing` and `stop_observing` it is found.

        Args:
            target: What the weights are deployed on.
            is_learned: Whether the scale changes after that.
        """
        super().__init__()
        self.target, self.is_learned = target, is_learned
        self.scheme = QAT_SCHEMES[target]
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=is_learned)
        self.ends = _SIGNED
        self._observer: _Observer | None = None

    def start_observing(self, outliers: float) -> None:
        """Note the ranges of the inputs from now on, and change nothing.

        Args:
            outliers: Fraction of an image's values that may lie outside of its range.
        """
        self._observer = _Observer(outliers)

    def stop_observing(self) -> None:
        """Set the scale to the range that was observed."""
        if self._observer is None:
            return
        lowest, highest = self._observer.lowest, self._observer.highest
        self._observer = None
        if self.scheme.is_unsigned and lowest == 0.0:
            self.ends = _UNSIGNED
        scale = max(highest, -lowest) / self.ends[1]
        with torch.no_grad():
            self.log_scale.fill_(math.log(max(scale, _SMALLEST_SCALE)))

    @property
    def scale(self) -> Tensor:
        """Return the size of a step of the input, above 0."""
        return self.log_scale.exp()

    def forward(self, batch: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return both fake-quantized; while observing, unchanged."""
        if self._observer is not None:
            for image in batch.detach():
                self._observer.add(image)
            return batch, weight
        # what a scale's gradient sums up grows with the tensor: LSQ, section 2.2
        share = (batch.numel() * self.ends[1]) ** -0.5
        scale: Tensor = _GradientScaled.apply(self.scale, share)  # type: ignore[no-untyped-call]
        levels = self.scheme.weight_levels
        scales = compute_weight_scales(weight, levels).view(-1, 1, 1, 1)
        return fake_quantize(batch, scale, self.ends), fake_quantize(weight, scales)


@dataclass
class _Observer:
    """The widest of the images' ranges, each without its outliers, as `ptq` has them."""

    outliers: float
    lowest: float = 0.0
    highest: float = 0.0

    def add(self, image: Tensor) -> None:
        values = image.flatten()
        outside = math.floor(self.outliers * values.numel())
        if outside:
            first = values.kthvalue(outside + 1).values
            last = values.kthvalue(values.numel() - outside).values
        else:
            first, last = values.aminmax()
        self.lowest = min(self.lowest, float(first))
        self.highest = max(self.highest, float(last))


class _FakeQuantizedConv:
    """Mixed into a convolution's own class, so that type checks of its network still hold."""

    quantizer: FakeQuantizer

    def _conv_forward(self, batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        batch, weight = self.quantizer(batch, weight)
        given: Tensor = super()._conv_forward(batch, weight, bias)  # type: ignore[misc]
        return given


def prepare_qat(
    network: nn.Module, batches: Iterable[Tensor], target: QatTarget = "tensorrt"
) -> list[str]:
    """Fake-quantize, in place, the convolutions that bundles hold in INT8.

    Those are the ones over pixels: global context, found by the shapes that the convolutions see,
    stays in float, as in the export's quantization schemes.

    Args:
        network: In its training form.
        batches: Inputs that set the first scales. At least one.
        target: What the weights are deployed on.

    Returns:
        The names of the modules.

    Raises:
        OptionError: No batch, or no convolution that could be quantized.
    """
    first = list(batches)
    if not first:
        raise OptionError("--qat needs at least one image to set its first scales on; found none")
    chosen = list_pixelwise_convolutions(network, first[0])
    if not chosen:
        raise OptionError(f"{type(network).__name__} has no convolution that INT8 would hold")
    modules = dict(network.named_modules())
    for name in chosen:
        conv: Any = modules[name]
        quantizer = FakeQuantizer(target, is_learned=name not in _RANGE_FROM_CONTRACT)
        _fake_quantize_convolution(conv, quantizer.to(conv.weight.device))
    outliers = outliers_of(network) if target == "cpu" else 0.0
    quantizers = [one for one in network.modules() if isinstance(one, FakeQuantizer)]
    for one in quantizers:
        one.start_observing(outliers)
    with torch.no_grad():
        for batch in first:
            network(batch)
    for one in quantizers:
        one.stop_observing()
    return chosen


def learned_ranges_of(network: nn.Module) -> dict[str, float]:
    """Return the largest input of each fake-quantized convolution whose range was learned.

    Args:
        network: As `prepare_qat` and training left it.

    Returns:
        Magnitudes by the module's name.
    """
    return {
        name: float(module.quantizer.scale.detach()) * module.quantizer.ends[1]
        for name, module in network.named_modules()
        if isinstance(module, _FakeQuantizedConv) and module.quantizer.is_learned
    }


def qat_target_of(network: nn.Module) -> QatTarget:
    """Return what a network is trained for that `prepare_qat` fake-quantized."""
    return next(one.target for one in network.modules() if isinstance(one, FakeQuantizer))


def list_pixelwise_convolutions(network: nn.Module, batch: Tensor) -> list[str]:
    """Return the names of the convolutions whose output still has the frame's positions.

    Left out are those that see global context vectors, MIRNetEdge's exposure branch, which sees a
    thumbnail, and the mask of MIRNet-v2's context.
    """
    seen: dict[str, tuple[int, int]] = {}
    hooks = []

    def watch(name: str) -> Any:  # noqa: ANN401  # a hook
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            del module, inputs
            seen[name] = (output.shape[-2], output.shape[-1])

        return hook

    frame_wide = {
        inner
        for module in network.modules()
        if isinstance(module, ExposureBranch | ContextModule)
        for inner in module.modules()
    }
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module not in frame_wide:
            hooks.append(module.register_forward_hook(watch(name)))
    with torch.no_grad():
        network(batch)
    for one in hooks:
        one.remove()
    return [name for name, sides in seen.items() if sides != (1, 1)]


def _fake_class(kind: type[_Conv]) -> type[_Conv]:
    return type(f"FakeQuantized{kind.__name__}", (_FakeQuantizedConv, kind), {})


def remove_quantizers(network: nn.Module) -> nn.Module:
    """Return a copy without quantizers: the float network that the trained weights make."""
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if isinstance(module, _FakeQuantizedConv):
            del module.quantizer
            module.__class__ = type(module).__mro__[2]
    return plain


def make_deployable_network(network: nn.Module) -> nn.Module:
    """Return a copy in its inference form, with Q/DQ operators that ONNX has.

    Stem and head are rewritten as `inference_form` does it, which keeps the scales: every output
    channel keeps its weights, and every input its values. Other rewrites would move a quantizer
    to another tensor and are left out.
    """
    rewritten = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    for parent in list(rewritten.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, _FakeQuantizedConv):
                continue
            if isinstance(child, UnshuffledConv):
                setattr(
                    parent,
                    name,
                    _fake_quantize_convolution(strided_from_unshuffled(child), child.quantizer),
                )
            elif isinstance(child, PixelHead):
                head = SplitHead(child).eval()
                head.added = _fake_quantize_convolution(head.added, child.quantizer)
                head.kept = _fake_quantize_convolution(head.kept, child.quantizer)
                setattr(parent, name, head)
    for module in list(rewritten.modules()):
        if isinstance(module, _FakeQuantizedConv) and isinstance(module, nn.Conv2d):
            module.add_module("quantizer", _Int8Quantizer(module.quantizer, module.weight))
    return rewritten


def _fake_quantize_convolution(conv: _Conv, quantizer: nn.Module) -> _Conv:
    """Add a quantizer for input and weight to a convolution, and return it."""
    conv.add_module("quantizer", quantizer)
    conv.__class__ = _fake_class(type(conv))
    return conv


class _Int8Quantizer(nn.Module):
    """A `FakeQuantizer` in the operators that torch.onnx writes as QuantizeLinear."""

    def __init__(self, quantizer: FakeQuantizer, weight: Tensor) -> None:
        super().__init__()
        # importing it registers the operators
        from torch.ao.quantization.fx import _decomposed  # noqa: F401

        self.scale = float(quantizer.scale.detach())
        self.ends = quantizer.ends
        levels = quantizer.scheme.weight_levels
        self.register_buffer("scales", compute_weight_scales(weight, levels))
        self.register_buffer("zeros", torch.zeros(len(weight), dtype=torch.int64))

    def forward(self, batch: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        operators, ends = torch.ops.quantized_decomposed, (*_SIGNED, torch.int8)
        kind = torch.uint8 if self.ends == _UNSIGNED else torch.int8
        stored = operators.quantize_per_tensor(batch, self.scale, 0, *self.ends, kind)
        channels = (self.scales, self.zeros, 0)
        kept = operators.quantize_per_channel(weight, *channels, *ends)
        return (
            operators.dequantize_per_tensor(stored, self.scale, 0, *self.ends, kind),
            operators.dequantize_per_channel(kept, *channels, *ends),
        )
