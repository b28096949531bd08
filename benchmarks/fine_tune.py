"""What fine-tuning wins on another camera, and what it forgets of the first.

    python benchmarks/fine_tune.py shipped:low-light --data lol --out build/fine-tune

The other camera is synthetic: a hundred training pairs of DATA whose dark images went through
another white balance and a higher gamma. Four rows: the weights as they are, fine-tuned on those
pairs alone, on those pairs with DATA replayed, and the last one moved back until DATA loses no more
than --keep dB; each measured on DATA's val images as they are and as the other camera sees them,
and on photos in daylight, which are to come back as they were.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from pathlib import Path

import numpy as np

from mirnet_edge import checkpoints
from mirnet_edge.dependencies import require
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.training.job import TrainingRequest, train_weights
from mirnet_edge.training.listing import PairFiles, PairListing, list_pairs
from mirnet_edge.training.loop import validate
from mirnet_edge.training.pairs import Pairs, load_pairs

DAYLIGHT = ("astronaut.png", "coffee.png", "chelsea.png")  # scikit-image's
GAINS = np.array([1.3, 1.0, 0.75], np.float32)
GAMMA = 1.15
TRAINED = 100


def other_camera(frame: np.ndarray) -> np.ndarray:
    """Return what the other camera would have made of a dark image."""
    value = (frame.astype(np.float32) / 255.0) ** np.float32(GAMMA) * GAINS
    return np.rint(255.0 * np.clip(value, 0.0, 1.0)).astype(np.uint8)


def made(listing: PairListing, folder: Path) -> Path:
    """Write the other camera's pairs as a folder that mirnet-train takes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    step = max(1, len(listing.train) // TRAINED)
    chosen = [("train", pair) for pair in listing.train[::step][:TRAINED]]
    chosen += [("val", pair) for pair in listing.val]
    rows = [taken(pair, split, folder) for split, pair in chosen]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["low", "high", "scene", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def taken(pair: PairFiles, split: str, folder: Path) -> dict[str, str]:
    """Write one pair as the other camera took it; return its row of the table."""
    if pair.low is None:
        raise SystemExit("the data must hold pairs, found clean images; give a paired set")
    low = folder / f"{pair.low.stem}.png"
    write_image(low, ImageFile(frame=other_camera(read_image(pair.low).frame)))
    return {"low": low.name, "high": str(pair.high.resolve()), "scene": pair.scene, "split": split}


def daylight() -> Pairs:
    """Return well-lit photos as pairs with themselves."""
    folder = Path(str(require("skimage", "the photos in daylight").__file__)).parent / "data"
    return load_pairs([PairFiles(folder / name, folder / name, name) for name in DAYLIGHT])


class Silent:
    """Is told how far a job is, and says nothing."""

    def __getattr__(self, name: str) -> object:
        """Return a method that does nothing."""
        return lambda *values: None


def main() -> None:
    """Print a line per row of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--keep", type=float, default=0.3, help="dB that DATA may lose")
    arguments = parser.parse_args()
    listing = list_pairs(arguments.data)
    camera = made(listing, arguments.out / "camera")
    first = load_pairs(listing.val)
    other = load_pairs(list_pairs(camera).val)
    lit = daylight()
    print(
        "| weights | other camera, dB | SSIM | first camera, dB | SSIM | daylight to itself, dB "
        "| minutes |"
    )
    print("|---|---|---|---|---|---|---|")

    def show(name: str, weights: str | Path, minutes: float) -> None:
        model = checkpoints.load(weights).model
        here, there, day = (validate(model, pairs) for pairs in (other, first, lit))
        print(
            f"| {name} | {here[0]:.2f} | {here[2]:.3f} | {there[0]:.2f} | {there[2]:.3f} "
            f"| {day[0]:.2f} | {minutes:.1f} |",
            flush=True,
        )

    show("as they are", arguments.weights, 0.0)
    for name, folder, replay, keep_db in (
        ("fine-tuned", "alone", None, None),
        ("first replayed", "replayed", arguments.data, None),
        # goes on from the finished training of the row above
        (f"and at most {arguments.keep:g} dB lost", "replayed", arguments.data, arguments.keep),
    ):
        started = time.monotonic()
        request = TrainingRequest(
            data=camera,
            out=arguments.out / folder,
            init=arguments.weights,
            replay=replay,
            keep_db=keep_db,
            training={} if arguments.steps is None else {"steps": arguments.steps},
        )
        trained = train_weights(request, Silent())
        show(name, trained.weights, (time.monotonic() - started) / 60.0)


if __name__ == "__main__":
    main()
