"""The backend PyTorch: runs the weights, without a graph. The only runner that needs torch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mirnet_edge.dependencies import EXTRAS
from mirnet_edge.errors import EngineError
from mirnet_edge.runtime.backends import Backend
from mirnet_edge.runtime.runner import GraphRunner

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from mirnet_edge.images.contract import FloatFrames
    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.runner import ContextVectors

_DEVICE = "cpu"


class TorchRunner(GraphRunner):
    """A weights file as a torch module, channels last.

    Half precisions are torch's autocast: convolutions are halved, sums and the image itself
    stay in fp32.
    """

    def __init__(
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        device: str = _DEVICE,
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        """Remember what to open.

        Args:
            path: The weights; anything `checkpoints.load` takes.
            image: The network's inputs and outputs.
            name: Of this runner in messages and reports.
            precision: fp32, bf16 or fp16.
            device: As torch names it: cpu, cuda, cuda:1.
            threads: Of one run, at most. It is a setting of the whole process, restored when the
                runner is closed.
            compiled: Whether torch.compile makes kernels of its own for each size of frames, on a
                GPU in one CUDA graph: seconds to minutes at the first frame, faster after it.

        Raises:
            EngineError: torch does not compute in that precision.
            OptionError: Less than one thread.
        """
        super().__init__(path, image, name=name, precision=precision, threads=threads)
        if not BACKEND.supports(precision):
            raise EngineError(
                f"{name}: torch runs {', '.join(BACKEND.precisions)}, not {precision}; "
                "choose another --backend"
            )
        self._device = device
        self.compiled = compiled
        self._network: nn.Module | None = None
        self._forward: Any = None
        self._former_threads: int | None = None

    takes_floats = True

    def _load(self) -> None:
        torch = BACKEND.require()
        network = self._make_network().eval()
        # torch's annotations lack `to` with a memory format
        network.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.threads is not None:
            self._former_threads = torch.get_num_threads()
            torch.set_num_threads(self.threads)
        self._network = self._forward = network
        if self.compiled:
            # a thousand kernels a frame: launched one by one, they would wait for Python
            mode = "reduce-overhead" if torch.device(self._device).type == "cuda" else None
            self._forward = torch.compile(network, mode=mode, dynamic=False)

    def _make_network(self) -> nn.Module:
        """Return the network that takes and gives frames."""
        from mirnet_edge import checkpoints
        from mirnet_edge.models.global_context import ContextAnchoredNetwork
        from mirnet_edge.models.inference_form import ContextFrameInterface, FrameInterface

        network = checkpoints.load(self.path).model
        if self.context_length:
            return ContextFrameInterface(ContextAnchoredNetwork(network), self.image.io)
        return FrameInterface(network, self.image.io)

    def _infer(self, inputs: NDArray[Any]) -> NDArray[Any]:
        output: NDArray[Any] = self._compute(inputs).cpu().numpy()
        return output

    def _infer_levels(
        self, levels: FloatFrames, context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> FloatFrames:
        import torch

        if self._network is None:
            raise EngineError(f"{self.name} is not open; enter it with `with runner:`")
        inputs = [torch.tensor(levels, device=self._device).permute(0, 3, 1, 2) / 255.0]
        if self.context_length:
            inputs += [torch.tensor(one, device=self._device) for one in (context_in, weight)]
        with torch.inference_mode(), self._autocast():
            # without what rounds around it
            restored = self._network.get_submodule("network")(*inputs)
            batch = restored[0] if self.context_length else restored
        output: FloatFrames = (255.0 * batch.float()).permute(0, 2, 3, 1).cpu().numpy()
        return output

    def _infer_with_context(
        self, inputs: NDArray[Any], context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> tuple[NDArray[Any], ContextVectors]:
        restored, used = self._compute(inputs, context_in, weight)
        return restored.cpu().numpy(), used.float().cpu().numpy()

    def _compute(self, *inputs: NDArray[Any]) -> Any:  # noqa: ANN401  # one tensor, or two
        import torch

        if self._network is None:
            raise EngineError(f"{self.name} is not open; enter it with `with runner:`")
        with torch.inference_mode(), self._autocast():
            # tensor, not from_numpy: the caller's frame may be read-only, and 8 bits copy fast
            return self._forward(*(torch.tensor(one, device=self._device) for one in inputs))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        if self.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(torch.device(self._device).type, dtype=dtype)

    def _close(self) -> None:
        self._network = self._forward = None
        if self._former_threads is not None:
            import torch

            torch.set_num_threads(self._former_threads)
            self._former_threads = None


BACKEND = Backend(
    name="torch",
    title="PyTorch",
    packages=("torch",),
    extra=EXTRAS["torch"],
    device="cpu",
    provider=_DEVICE,
    precisions=("fp32", "bf16", "fp16"),
    auto_reason="where it is measured fastest; it runs the weights themselves, to compare with",
    runner=TorchRunner,
    runs_weights=True,
)
