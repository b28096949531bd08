"""Make weights part of the package: copy the file, write its page.

    python export/ship.py build/train/low-light.safetensors [--name low-light-nano]

The page (`mirnet_edge/weights/NAME.md`) says for people what the card in the file says for
programs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from mirnet_edge import checkpoints
from mirnet_edge.models.macs import count_macs, count_parameters

FOLDER = Path(__file__).parents[1] / "mirnet_edge" / "weights"
LARGEST_MIB = 4
# What the data are, by the name of the folder that was trained on.
DATA = {
    "lol": "LOL-v1 (Wei et al., BMVC 2018), the pairs of 378 scenes; where the note says so, also "
    "photos of BSDS500 (Arbelaez et al., TPAMI 2011); their images are not shipped",
    "bsds500": "180 clean photos of BSDS500 (Arbelaez et al., TPAMI 2011), none of them in CBSD68 "
    "or BSD100, made bad by `mirnet_edge.degradations`; the photos are not shipped",
}
VALIDATION = {
    "lol": "22 whole images of 20 other scenes of the same set",
    "bsds500": "20 other photos of the same set, made bad alike",
}


def page_of(weights: Path, name: str) -> str:
    """Return the page of a weights file, Markdown."""
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
        "trained on": DATA.get(card.trained_on, card.trained_on),
        "sha256 of the training files": f"`{card.data_sha256}`",
        "parent": f"`{card.parent}`" if card.parent else "none: a random start",
        "teacher": f"`{card.teacher}`" if card.teacher else "none",
        **({"note": card.note} if card.note else {}),
        "validated on": VALIDATION.get(card.trained_on, "the val pairs of the same set"),
        "PSNR": f"{figures['val_psnr_db']:.2f} dB; at equal brightness "
        f"{figures['val_psnr_gtmean_db']:.2f} dB",
        "SSIM": f"{figures['val_ssim']:.3f}",
        "mean absolute error": f"{figures['val_mae']:.4f} on [0, 1]",
        "source tree": str(card.revision),
        "license": "Apache-2.0, as the rest of the package",
    }
    recipe = ", ".join(
        f"{key} {value:g}" if isinstance(value, int | float) else f"{key} {value}"
        for key, value in sorted(card.recipe.items())
    )
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return (
        f"# {name}.safetensors\n\n| | |\n|---|---|\n{table}\n\n"
        f"Made by `mirnet-train --task {card.task}`, as docs/training.md tells. The last "
        f"run's recipe:\n{recipe}.\n\nThe file itself holds this card; "
        f'`mirnet_edge.checkpoints.load("shipped:{name}").card` reads it.\n'
    )


def main() -> None:
    """Copy the weights and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--name", help="what shipped:NAME is to be; default: the file's")
    arguments = parser.parse_args()
    size = arguments.weights.stat().st_size
    if size > LARGEST_MIB * 2**20:
        sys.exit(f"{arguments.weights} has {size:,} bytes; expected at most {LARGEST_MIB} MiB")
    name = arguments.name or arguments.weights.stem
    page = page_of(arguments.weights, name)
    shutil.copyfile(arguments.weights, FOLDER / f"{name}.safetensors")
    (FOLDER / f"{name}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
