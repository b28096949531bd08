"""Write pairs that teach a low-light network to leave daylight alone.

    python export/daylight.py --photos bsds500 --out day

Each photo as a pair with itself; of those that train every second also darkened as the task
low-light does. What it is for stands in docs/decisions/007-daylight.md.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.tasks import task_of

if TYPE_CHECKING:
    from mirnet_edge.training.listing import PairFiles


def main() -> None:
    """Write the folder that `mirnet-train --replay` takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    darkened = task_of("low-light").degrade
    arguments.out.mkdir(parents=True, exist_ok=True)
    listing = list_pairs(arguments.photos)
    rows = [_row(pair, str(pair.high.resolve()), "val") for pair in listing.val]
    for index, pair in enumerate(listing.train):
        rows.append(_row(pair, str(pair.high.resolve()), "train"))
        if index % 2 == 0:
            low = arguments.out / f"{pair.high.stem}-dark.png"
            frame = darkened(read_image(pair.high).frame, np.random.default_rng(index))
            write_image(low, ImageFile(frame=frame))
            rows.append(_row(pair, low.name, "train"))
    with (arguments.out / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["low", "high", "scene", "split"])
        writer.writeheader()
        writer.writerows(rows)
    print(f"{arguments.out}: {len(rows)} pairs")


def _row(pair: PairFiles, low: str, split: str) -> dict[str, str]:
    return {"low": low, "high": str(pair.high.resolve()), "scene": pair.scene, "split": split}


if __name__ == "__main__":
    main()
