"""Make the weights that the package ships: without dead channels, with their model page.

    python -m mirnet_edge.training.shipping silence TRAINED --images FOLDER \
        --out low-light.safetensors
    python -m mirnet_edge.training.shipping round TRAINED --out low-light.safetensors
    python -m mirnet_edge.training.shipping ship low-light.safetensors [--name NAME]

docs/training.md lists the commands that made the shipped weights.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge import checkpoints
from mirnet_edge.images.contract import batch_from_frames, pad_to_multiple
from mirnet_edge.images.files import read_image
from mirnet_edge.manifest import rename_keys
from mirnet_edge.models.dead_channels import describe_silenced, silence_dead_channels
from mirnet_edge.models.macs import count_macs, count_parameters
from mirnet_edge.training.listing import list_images
from mirnet_edge.training.recipe import FORMER_FIELDS
from mirnet_edge.training.tasks import find_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from mirnet_edge.checkpoints import ModelCard


FOLDER = Path(__file__).parents[1] / "weights"
LARGEST_MIB = 4
_SIGNIFICANT_BITS = 10
# What the data are, by the name of the folder that was trained on.
_MIX = (
    "a mix of sources (mirnet_edge.training.mixing, docs/decisions/018-low-light-mix.md): LOL-v1 "
    "(Wei et al., BMVC 2018), 418 pairs; SICE (Cai et al., IEEE TIP 2018) as Zero-DCE++ publishes "
    "it, CC BY-NC 4.0, 759 pairs of exposures; clean images of both and of BSDS500 (Arbelaez et "
    "al., TPAMI 2011, non-commercial research) through a random camera, BSDS500 plainly darkened "
    "and as it is; none of the images is shipped"
)
_NOISE = (
    "pairs of real noise and clean photos, which `mirnet_edge.degradations` degrades: 77 pairs of "
    "PolyU (Xu et al., arXiv 1804.02603) by three of its cameras, 23 of RENOIR (Anaya and Barbu, "
    "2018, research), and 1001 photos of BSDS500 (Arbelaez et al., TPAMI 2011), none of them in "
    "CBSD68 or BSD100, and of ImageNet (Deng et al., CVPR 2009), both for non-commercial research; "
    "none of the images is shipped"
)
_DATA = {
    "noise": _NOISE,
    "mix": _MIX,
    "mix-darker": _MIX,
    "mix-photos": f"{_MIX}; one member of the exposure branch also on 824 photos of ImageNet "
    "(Deng et al., CVPR 2009, non-commercial research) through that camera and as they are",
    "lol": "LOL-v1 (Wei et al., BMVC 2018), the pairs of 378 scenes; where the note says so, also "
    "photos of BSDS500 (Arbelaez et al., TPAMI 2011); their images are not shipped",
    "bsds500": "180 clean photos of BSDS500 (Arbelaez et al., TPAMI 2011), none of them in CBSD68 "
    "or BSD100, degraded by `mirnet_edge.degradations`; the photos are not shipped",
    "bsds500-400": "360 clean photos of BSDS500's train and test parts (Arbelaez et al., TPAMI "
    "2011), none of them in CBSD68 or BSD100, degraded by `mirnet_edge.degradations`; the photos "
    "are not shipped",
    "photos-1113": "1001 clean photos, degraded by `mirnet_edge.degradations`: of BSDS500 "
    "(Arbelaez et al., TPAMI 2011), none of them in CBSD68 or BSD100, and of ImageNet (Deng et "
    "al., CVPR 2009), both for non-commercial research; the photos are not shipped",
    "photos-1231": "1107 clean photos, degraded by `mirnet_edge.degradations`: of BSDS500's train "
    "and test parts (Arbelaez et al., TPAMI 2011), none of them in CBSD68 or BSD100, and one of "
    "most classes of ImageNet (Deng et al., CVPR 2009), both for non-commercial research; the "
    "photos are not shipped",
}
_LOL_SCENES = (
    "22 whole images of 20 other scenes of LOL-v1; chosen by `benchmarks/low_light_sources.py`"
)
_CAMERAS = "23 pairs of PolyU by two other cameras; chosen by `benchmarks/denoising.py`"
_VALIDATION = {
    "noise": _CAMERAS,
    "mix": _LOL_SCENES,
    "mix-darker": _LOL_SCENES,
    "mix-photos": _LOL_SCENES,
    "lol": "22 whole images of 20 other scenes of the same set",
    "bsds500": "20 other photos of the same set, degraded alike",
    "bsds500-400": "40 other photos of the same set, degraded alike",
    "photos-1113": "112 other photos of the same sets, degraded alike",
    "photos-1231": "124 other photos of the same sets, degraded alike",
}


def write_silenced_weights(
    weights: Path, images: Path, out: Path, fraction: float = 0.0
) -> dict[str, int]:
    """Write weights whose dead channels are zero, and return how many, by the layer's name.

    Half of the images are also degraded as in training; the card names what was silenced
    (docs/decisions/035-dead-channels.md).

    Args:
        weights: A checkpoint of a known task.
        images: A folder of images of all kinds that the network will see.
        out: The file to write.
        fraction: As `silence_dead_channels` takes it.
    """
    loaded = checkpoints.load(weights)
    network, degrade = loaded.model.eval(), find_task(loaded.card.task).degrade
    files = list_images(images)
    multiple: int = network.multiple  # type: ignore[assignment]  # every network states it

    def batches() -> Iterator[Tensor]:
        for index, file in enumerate(files):
            frame = read_image(file.target).frame
            seen = [frame]
            if index % 2 == 0:
                seen.append(degrade(frame, np.random.default_rng(index)))
            for one in seen:
                yield torch.from_numpy(batch_from_frames(pad_to_multiple(one[None], multiple)))

    silenced = silence_dead_channels(network, batches(), fraction=fraction)
    note = describe_silenced(silenced, fraction, len(files))
    checkpoints.save(network, out, _add_note(loaded.card, note))
    return silenced


def write_rounded_weights(weights: Path, out: Path, bits: int = _SIGNIFICANT_BITS) -> None:
    """Write weights rounded to so many significant bits, as float32; the card's note says so.

    With 10, the wheel's compression halves them, in the weights file and in graphs alike.
    """
    loaded = checkpoints.load(weights)
    state = {
        name: round_significand(value, bits) for name, value in loaded.model.state_dict().items()
    }
    loaded.model.load_state_dict(state)
    card = _add_note(loaded.card, f"weights rounded to {bits} significant bits")
    checkpoints.save(loaded.model, out, card)


def _add_note(card: ModelCard, note: str) -> ModelCard:
    return card.model_copy(update={"note": f"{card.note}; {note}" if card.note else note})


def round_significand(values: Tensor, bits: int = _SIGNIFICANT_BITS) -> Tensor:
    """Return float values rounded to so many significant bits, of any magnitude."""
    if not values.is_floating_point():
        return values
    fraction, exponent = torch.frexp(values)
    return torch.ldexp((fraction * 2.0**bits).round(), exponent - bits)


def format_model_page(weights: Path, name: str) -> str:
    """Return the Markdown page of a weights file: its card, for people."""
    loaded = checkpoints.load(weights)
    card, figures = loaded.card, loaded.card.figures
    model = loaded.model
    size = (
        f"{count_parameters(model):,} parameters, {count_macs(model, 480, 640) / 1e9:.2f} GMACs "
        f"at 640x480, {weights.stat().st_size:,} bytes"
    )
    rows = {
        "task": card.task,
        "network": "MIRNetEdge, "
        + ", ".join(f"{key} {value}" for key, value in card.config.items()),
        "size": size,
        "sha256": f"`{loaded.sha256}`",
        "trained on": _DATA.get(str(card.trained_on), card.trained_on),
        "sha256 of the training files": f"`{card.data_sha256}`",
        "parent": f"`{card.parent}`" if card.parent else "none (random initial weights)",
        "teacher": f"`{card.teacher}`" if card.teacher else "none",
        **({"note": card.note} if card.note else {}),
        "validated on": _VALIDATION.get(str(card.trained_on), "the val pairs of the same set"),
        "PSNR": f"{figures['val_psnr_db']:.2f} dB; brightness-matched "
        f"{figures['val_psnr_gtmean_db']:.2f} dB",
        "SSIM": f"{figures['val_ssim']:.3f}",
        "mean absolute error": f"{figures['val_mae']:.4f} on [0, 1]",
        "source tree": str(card.revision),
        "license": "Apache-2.0, as the rest of the package",
    }
    recipe = ", ".join(
        f"{key} {value:g}" if isinstance(value, int | float) else f"{key} {value}"
        for key, value in sorted(rename_keys(card.recipe, FORMER_FIELDS).items())
    )
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return (
        f"# {name}.safetensors\n\n| | |\n|---|---|\n{table}\n\n"
        f"Made by `mirnet-train --task {card.task}`, as docs/training.md describes. The last "
        f"run's training recipe:\n{recipe}.\n\nThe file itself holds this card; "
        f'`mirnet_edge.checkpoints.load("shipped:{name}").card` reads it.\n'
    )


def ship_weights(weights: Path, name: str | None = None, folder: Path = FOLDER) -> Path:
    """Copy weights into the package, write their page, and return the path of the copy.

    Args:
        weights: The trained weights.
        name: NAME in shipped:NAME; the file's stem by default.
        folder: The package's folder of weights.

    Raises:
        ValueError: The file is too large to ship.
    """
    size = weights.stat().st_size
    if size > LARGEST_MIB * 2**20:
        raise ValueError(f"{weights} has {size:,} bytes; expected at most {LARGEST_MIB} MiB")
    name = name or weights.stem
    page = format_model_page(weights, name)
    target = folder / f"{name}.safetensors"
    shutil.copyfile(weights, target)
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    return target


def main(typed: Sequence[str] | None = None) -> None:
    """Run one of the commands of the module's docstring."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    silence = commands.add_parser("silence", help="weights whose dead channels are zero")
    silence.add_argument("weights", type=Path)
    silence.add_argument("--images", type=Path, required=True)
    silence.add_argument("--out", type=Path, required=True)
    silence.add_argument("--fraction", type=float, default=0.0, help="of a layer's contribution")
    rounded = commands.add_parser("round", help="weights of fewer significant bits, for the wheel")
    rounded.add_argument("weights", type=Path)
    rounded.add_argument("--out", type=Path, required=True)
    rounded.add_argument("--bits", type=int, default=_SIGNIFICANT_BITS)
    ship = commands.add_parser("ship", help="weights and their page into the package")
    ship.add_argument("weights", type=Path)
    ship.add_argument("--name", help="NAME in shipped:NAME; the file's stem by default")
    given = parser.parse_args(typed)
    if given.command == "silence":
        silenced = write_silenced_weights(given.weights, given.images, given.out, given.fraction)
        print(f"{given.out}: {sum(silenced.values())} channels silenced")
    elif given.command == "round":
        write_rounded_weights(given.weights, given.out, given.bits)
        print(given.out)
    else:
        try:
            print(ship_weights(given.weights, given.name))
        except ValueError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
