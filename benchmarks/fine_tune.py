"""Measure the gain of fine-tuning on another camera, and its accuracy drop on the first.

    python benchmarks/fine_tune.py shipped:low-light --data lol --out build/fine-tune

The other camera is synthetic: a hundred training pairs of DATA whose degraded images get another
white balance and a higher gamma. Four rows: the initial weights, fine-tuned on those pairs, with
DATA replayed, and interpolated with the initial weights (WiSE-FT) until the accuracy drop on DATA
is at most --keep dB. Each is evaluated on the validation split of both cameras, and on daylight
images, which restoration should not change.
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
    """Return a degraded image as the other camera takes it."""
    value = (frame.astype(np.float32) / 255.0) ** np.float32(GAMMA) * GAINS
    return np.rint(255.0 * np.clip(value, 0.0, 1.0)).astype(np.uint8)


def write_camera_pairs(listing: PairListing, folder: Path) -> Path:
    """Write the other camera's image pairs as a folder for mirnet-train; return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    step = max(1, len(listing.train) // TRAINED)
    chosen = [("train", pair) for pair in listing.train[::step][:TRAINED]]
    chosen += [("val", pair) for pair in listing.val]
    rows = [write_pair(pair, split, folder) for split, pair in chosen]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["low", "high", "scene", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_pair(pair: PairFiles, split: str, folder: Path) -> dict[str, str]:
    """Write one pair of the other camera; return its row of pairs.csv."""
    if pair.degraded is None:
        raise SystemExit("--data must be a folder of image pairs, found clean images alone")
    low = folder / f"{pair.degraded.stem}.png"
    write_image(low, ImageFile(frame=other_camera(read_image(pair.degraded).frame)))
    return {
        "low": low.name,
        "high": str(pair.target.resolve()),
        "scene": pair.scene,
        "split": split,
    }


def load_daylight() -> Pairs:
    """Return well-lit images as pairs with themselves."""
    folder = Path(str(require("skimage", "the daylight images").__file__)).parent / "data"
    return load_pairs([PairFiles(folder / name, folder / name, name) for name in DAYLIGHT])


class NullProgress:
    """A progress display that shows nothing."""

    def __getattr__(self, name: str) -> object:
        """Return a method that does nothing."""
        return lambda *values: None


def main() -> None:
    """Print a table row for each kind of weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument(
        "--keep", type=float, default=0.3, help="accepted accuracy drop on DATA, dB"
    )
    arguments = parser.parse_args()
    listing = list_pairs(arguments.data)
    camera = write_camera_pairs(listing, arguments.out / "camera")
    first = load_pairs(listing.val)
    other = load_pairs(list_pairs(camera).val)
    lit = load_daylight()
    print(
        "| weights | other camera: PSNR (dB) | SSIM | first camera: PSNR (dB) | SSIM "
        "| daylight to input: PSNR (dB) | minutes |"
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

    show("initial", arguments.weights, 0.0)
    for name, folder, replay, max_drop_db in (
        ("fine-tuned", "alone", None, None),
        ("with replay", "replayed", arguments.data, None),
        # resumes the finished training of the row above
        (
            f"interpolated, drop at most {arguments.keep:g} dB",
            "replayed",
            arguments.data,
            arguments.keep,
        ),
    ):
        started = time.monotonic()
        request = TrainingRequest(
            data=camera,
            out=arguments.out / folder,
            init=arguments.weights,
            replay=replay,
            max_drop_db=max_drop_db,
            training={} if arguments.steps is None else {"steps": arguments.steps},
        )
        trained = train_weights(request, NullProgress())
        show(name, trained.weights, (time.monotonic() - started) / 60.0)


if __name__ == "__main__":
    main()
