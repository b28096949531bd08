"""Write a network as a Core ML package for iPhones: images in and out, fp16.

    pip install "mirnet-edge[export]" coremltools
    python export/ios/convert.py --weights shipped:low-light --size 640x480 --out LowLight.mlpackage

coremltools converts on Linux too, but only macOS runs the result: compare it there with
`mirnet restore --backend onnxruntime` before it is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import coremltools
import torch
from torch import nn

from mirnet_edge import checkpoints
from mirnet_edge.models.inference_form import to_inference_form


class LevelInterface(nn.Module):
    """A network with levels from 0 to 255 as output, which Core ML makes an image of."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network in inference form."""
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return (1, 3, scale H, scale W) in [0, 255] of (1, 3, H, W) in [0, 1]."""
        levels: torch.Tensor = self.network(batch).clamp(0.0, 1.0) * 255.0
        return levels


def main() -> None:
    """Convert and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="shipped:low-light")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--out", type=Path, default=Path("LowLight.mlpackage"))
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    network = LevelInterface(to_inference_form(checkpoints.load(args.weights).model)).eval()
    shape = (1, 3, height, width)
    with torch.inference_mode():
        traced = torch.jit.trace(network, torch.rand(shape), check_trace=False)
    colors = coremltools.colorlayout.RGB
    model = coremltools.convert(
        traced,
        inputs=[coremltools.ImageType("frame", shape, scale=1 / 255, color_layout=colors)],
        outputs=[coremltools.ImageType("restored", color_layout=colors)],
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT16,
    )
    model.short_description = f"{args.weights}, {args.size}, RGB"
    model.save(str(args.out))
    print(
        f"{args.out}: {sum(one.stat().st_size for one in args.out.rglob('*') if one.is_file())} B"
    )


if __name__ == "__main__":
    main()
