"""Quantization-aware training (QAT): fake quantization that exports as plain INT8 Q/DQ.

    network ─prepare_qat─► ─train─► ─make_deployable_network─► ─export_onnx─► INT8 Q/DQ graph

Weights: symmetric, per output channel, from their own largest value at every step. Activations:
symmetric, one scale per convolution, learned (Esser et al., "Learned Step Size Quantization",
ICLR 2020). Rounding passes gradients straight through (Bengio et al., 2013).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from mirnet_edge.errors import OptionError
from mirnet_edge.models.edge import ExposureBranch, PixelHead, UnshuffledConv
from mirnet_edge.models.inference_form import SplitHead, strided_from_unshuffled
from mirnet_edge.models.mirnet_v2 import ContextModule

if TYPE_CHECKING:
    from collections.abc import Iterable

_LEVELS = 127
_SMALLEST_SCALE = 1e-8
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


def fake_quantize(value: Tensor, scale: Tensor) -> Tensor:
    """Return VALUE rounded as INT8 rounds it: to steps of SCALE, from -128 to 127 of them.

    The gradient reaches the value where it is inside the range, and the scale: by the rounding
    error inside the range, by the sign outside.
    """
    steps = (value / scale).clamp(-_LEVELS - 1, _LEVELS)
    rounded: Tensor = _StraightThroughRound.apply(steps)  # type: ignore[no-untyped-call]
    return rounded * scale


def compute_weight_scales(weight: Tensor) -> Tensor:
    """Return the steps of a convolution's weight, one per output channel."""
    return weight.detach().abs().amax((1, 2, 3)).clamp_min(_SMALLEST_SCALE) / _LEVELS


class FakeQuantizer(nn.Module):
    """Fake quantization of a convolution's input and weight, with a learned input scale."""

    def __init__(self) -> None:
        """Start without a scale; `observing` finds the first one."""
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.observing = False

    def forward(self, batch: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return both fake-quantized; while observing, unchanged."""
        if self.observing:
            with torch.no_grad():
                seen = batch.abs().amax() / _LEVELS
                self.scale.copy_(torch.maximum(self.scale, seen).clamp_min(_SMALLEST_SCALE))
            return batch, weight
        # what a scale's gradient sums up grows with the tensor: LSQ, section 2.2
        share = (batch.numel() * _LEVELS) ** -0.5
        scale: Tensor = _GradientScaled.apply(self.scale, share)  # type: ignore[no-untyped-call]
        scales = compute_weight_scales(weight).view(-1, 1, 1, 1)
        # the learned scale may cross zero on its way; a step has a size, not a sign
        return (
            fake_quantize(batch, scale.abs().clamp_min(_SMALLEST_SCALE)),
            fake_quantize(weight, scales),
        )


class _FakeQuantizedConv:
    """Mixed into a convolution's own class, so that type checks of its network still hold."""

    quantizer: FakeQuantizer

    def _conv_forward(self, batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        batch, weight = self.quantizer(batch, weight)
        given: Tensor = super()._conv_forward(batch, weight, bias)  # type: ignore[misc]
        return given


def prepare_qat(network: nn.Module, batches: Iterable[Tensor]) -> list[str]:
    """Fake-quantize, in place, the convolutions that bundles hold in INT8.

    Those are the ones over pixels: global context, found by the shapes that the convolutions see,
    stays in float, as in the export's quantization schemes.

    Args:
        network: In its training form.
        batches: Inputs that set the first scales. At least one.

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
        _fake_quantize_convolution(conv, FakeQuantizer().to(conv.weight.device))
    quantizers = [one for one in network.modules() if isinstance(one, FakeQuantizer)]
    for one in quantizers:
        one.observing = True
    with torch.no_grad():
        for batch in first:
            network(batch)
    for one in quantizers:
        one.observing = False
    return chosen


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

        self.scale = float(quantizer.scale.detach().abs().clamp_min(_SMALLEST_SCALE))
        self.register_buffer("scales", compute_weight_scales(weight))
        self.register_buffer("zeros", torch.zeros(len(weight), dtype=torch.int64))

    def forward(self, batch: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        operators, ends = torch.ops.quantized_decomposed, (-_LEVELS - 1, _LEVELS, torch.int8)
        stored = operators.quantize_per_tensor(batch, self.scale, 0, *ends)
        channels = (self.scales, self.zeros, 0)
        kept = operators.quantize_per_channel(weight, *channels, *ends)
        return (
            operators.dequantize_per_tensor(stored, self.scale, 0, *ends),
            operators.dequantize_per_channel(kept, *channels, *ends),
        )
