"""Make a training set of several sources, each with its share of what is sampled.

    python -m mirnet_edge.training.mixing bursts EXPOSURES --out bursts
    python -m mirnet_edge.training.mixing match polyu --low _real --high _mean --out noise
        --hold-out '^Sony'
    python -m mirnet_edge.training.mixing mix --out mix --source pairs:0.5:lol
        --source pairs:0.2:bursts --source camera:0.2:bsds500 --source daylight:0.1:bsds500

`bursts` finds the scenes in a folder of exposure series, whose images follow each other by number
(SICE, Cai et al., IEEE TIP 2018, as Zero-DCE's authors publish it), and pairs the darker exposures
of each with its best one. `match` pairs the images of a folder whose names differ in their endings,
as real noisy photos and their means (PolyU, Xu et al., arXiv 1804.02603).

`mix` writes a pairs.csv with weights: `pairs` takes image pairs as they are, `clean` clean images,
which the task degrades anew at every step, `camera` darkens clean images by a random camera
(`degradations.camera`), `darkened` by the degradation of the task low-light, `daylight` pairs clean
images with themselves. Only the training parts of the sources are used; each validation part is
kept back, and with `--leave-out lol/pairs_twin.csv` that of another table too.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from mirnet_edge.errors import DataError, MirnetEdgeError
from mirnet_edge.images.contract import LUMA
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.training.listing import list_images, list_pairs, read_pair_table
from mirnet_edge.training.tasks import find_task, photograph_at_random

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.training.listing import PairFiles
    from mirnet_edge.training.tasks import Degrade

Kind = Literal["pairs", "clean", "camera", "darkened", "daylight"]

_BEST_BRIGHTNESS = 0.45
_DARKEST, _BRIGHTEST = 0.3, 0.65
"""Mean luma of the exposures that may be the target of their scene."""
_WELL_LIT = 0.3
"""Least mean luma of a clean image: night photos as targets would teach to stay dark."""
_SAME_SCENE = 0.8
"""Least correlation of two exposures of one scene, between the ranks of their pixels."""
_THUMBNAIL = 24


@dataclass(frozen=True)
class MixSource:
    """A source of image pairs and its share."""

    kind: Kind
    share: float
    """Of what is sampled, relative to the other sources."""
    folder: Path


def write_burst_pairs(folder: Path, out: Path, *, darkest: float = 0.02) -> int:
    """Write pairs.csv for a folder of exposure series; return the number of pairs.

    A scene's target is its exposure whose mean luma is closest to 0.45; without one between 0.3
    and 0.65 the scene is left out. Every exposure with at most 0.75 of its luma becomes an input.

    Args:
        folder: Images whose names are numbers; each scene's follow each other.
        out: The folder for pairs.csv.
        darkest: Least mean luma of an input: almost black images show nothing.

    Raises:
        DataError: The names are not numbers, or no scene has a pair.
    """
    files = [pair.target for pair in list_images(folder)]
    if not all(file.stem.isdigit() for file in files):
        raise DataError(f"{folder}: expected images named by numbers, in the order they were taken")
    scenes = _group_scenes(sorted(files, key=lambda file: int(file.stem)))
    rows = []
    for number, scene in enumerate(scenes):
        target, brightness = min(scene, key=lambda one: abs(one[1] - _BEST_BRIGHTNESS))
        if not _DARKEST <= brightness <= _BRIGHTEST:
            continue
        split = "train" if number % 10 else "val"
        rows += [
            {"low": str(file.resolve()), "high": str(target.resolve()), "scene": f"burst-{number}",
             "split": split}
            for file, luma in scene
            if darkest <= luma <= 0.75 * brightness
        ]  # fmt: skip
    if not rows:
        raise DataError(f"{folder}: found no scene with a dark and a bright exposure")
    _write_table(rows, out)
    return len(rows)


def write_matched_pairs(
    folder: Path, out: Path, *, low: str, high: str, held_out: str, left_out: str | None = None
) -> int:
    """Write pairs.csv for a folder whose pairs differ in the endings of their names.

    Args:
        folder: Images named SCENE + LOW and SCENE + HIGH, before the extension.
        out: The folder for pairs.csv.
        low: The ending of the degraded images' names.
        high: That of the ground truth's.
        held_out: Pattern (regular expression) of the scenes that validate.
        left_out: Pattern of the scenes that are not used.

    Returns:
        The number of pairs.

    Raises:
        DataError: An image has no partner, or a split would be empty.
    """
    files = {pair.scene: pair.target for pair in list_images(folder)}
    scenes = {
        ending: {name.removesuffix(ending) for name in files if name.endswith(ending)}
        for ending in (low, high)
    }
    alone = sorted(scenes[low] ^ scenes[high])
    if alone or not scenes[low]:
        raise DataError(
            f"{folder}: expected for each name with {low!r} at its end one with {high!r}, found "
            f"{f'{len(alone)} alone, such as {alone[0]}' if alone else 'none'}. Check --low and "
            "--high"
        )
    rows = [
        {"low": str(files[scene + low].resolve()), "high": str(files[scene + high].resolve()),
         "scene": scene, "split": "val" if re.search(held_out, scene) else "train"}
        for scene in sorted(scenes[low])
        if left_out is None or not re.search(left_out, scene)
    ]  # fmt: skip
    splits = {row["split"] for row in rows}
    if len(splits) < 2:
        raise DataError(
            f"{folder}: --hold-out {held_out!r} leaves no pair that "
            f"{'trains' if 'val' in splits else 'validates'}; expected a pattern of some scenes"
        )
    _write_table(rows, out)
    return len(rows)


def _group_scenes(files: Sequence[Path]) -> list[list[tuple[Path, float]]]:
    """Return the scenes of exposures in order: each image with its mean luma."""
    scenes: list[list[tuple[Path, float]]] = []
    former: NDArray[np.float64] | None = None
    for file in files:
        frame = read_image(file).frame
        ranks = _rank_pixels(frame)
        is_same = former is not None and float(np.mean(ranks * former)) >= _SAME_SCENE
        if not is_same:
            scenes.append([])
        scenes[-1].append((file, float(np.mean(frame @ LUMA)) / 255.0))
        former = ranks
    return scenes


def _rank_pixels(frame: Frame) -> NDArray[np.float64]:
    """Return the normalized ranks of a thumbnail's pixels, which exposure does not change."""
    import cv2

    small = cv2.resize(frame @ LUMA, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    ranks = np.argsort(np.argsort(small, axis=None, kind="stable")).astype(np.float64)
    normalized: NDArray[np.float64] = (ranks - ranks.mean()) / ranks.std()
    return normalized


def write_mix(
    sources: Sequence[MixSource],
    out: Path,
    *,
    left_out: Sequence[Path] = (),
    variants: int = 4,
    noise: float = 1.0,
) -> int:
    """Write pairs.csv with weights, and the darkened images; return the number of pairs.

    The validation pairs are those of the first source of kind `pairs`.

    Args:
        sources: What is mixed.
        out: The folder for pairs.csv and the darkened images.
        left_out: Further tables whose validation pairs are kept back too.
        variants: Darkened images per clean image and source of kind `camera` or `darkened`.
        noise: Noise of every third of the camera's, over that of the others: small sensors.

    Raises:
        DataError: A source cannot be read, or no source has image pairs.
    """
    kept_back = {
        path.resolve()
        for table in left_out
        for pair in _read_table(table)
        for path in (pair.degraded, pair.target)
        if path is not None
    }
    rows: list[dict[str, str]] = []
    for number, source in enumerate(sources):
        listing = list_pairs(source.folder)
        train = [pair for pair in listing.train if pair.target.resolve() not in kept_back]
        if source.kind == "pairs":
            made = [pair for pair in train if pair.degraded is not None]
            if not any(row["split"] == "val" for row in rows):
                rows += [_row(pair, "val", 1.0) for pair in listing.val if pair.degraded]
        else:
            # a ground truth can serve several inputs
            unique = {pair.target: replace(pair, degraded=None) for pair in train}
            clean = [
                pair
                for target, pair in unique.items()
                if source.kind == "clean" or _mean_luma(target) >= _WELL_LIT
            ]
            made = clean
            if source.kind == "daylight":
                made = [replace(pair, degraded=pair.target) for pair in clean]
            elif source.kind != "clean":
                degrade = find_task("low-light").degrade if source.kind == "darkened" else None
                folder = out / f"{source.kind}-{number}"
                made = [
                    _darken(pair, folder, one, noise if one % 3 == 2 else 1.0, degrade)
                    for pair in clean
                    for one in range(variants)
                ]
        rows += [_row(pair, "train", source.share / len(made)) for pair in made]
    if not any(row["split"] == "val" for row in rows):
        raise DataError("expected a source of kind pairs, whose val pairs validate; add one")
    _write_table(rows, out)
    return len(rows)


def _read_table(table: Path) -> tuple[PairFiles, ...]:
    splits = read_pair_table(table.parent, table.name)
    return splits["val"] + splits["test"]


def _mean_luma(path: Path) -> float:
    return float(np.mean(read_image(path).frame @ LUMA)) / 255.0


def _darken(
    pair: PairFiles, folder: Path, variant: int, noise: float, degrade: Degrade | None
) -> PairFiles:
    """Write a darkened image of a clean one and return the pair."""
    low = folder / f"{pair.target.stem}-{variant}.png"
    if not low.is_file():
        # the seed is the name, so that the same photo is darkened alike in every mix
        seed = [variant, *pair.target.stem.encode()]
        clean, generator = read_image(pair.target).frame, np.random.default_rng(seed)
        if degrade is None:
            frame = photograph_at_random(clean, generator, noise=noise)
        else:
            frame = degrade(clean, generator)
        folder.mkdir(parents=True, exist_ok=True)
        write_image(low, ImageFile(frame=frame))
    return replace(pair, degraded=low)


def _row(pair: PairFiles, split: str, weight: float) -> dict[str, str]:
    return {
        "low": "" if pair.degraded is None else str(pair.degraded.resolve()),
        "high": str(pair.target.resolve()),
        "scene": pair.scene,
        "split": split,
        "weight": f"{weight:.6g}",
    }


def _write_table(rows: list[dict[str, str]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def parse_source(text: str) -> MixSource:
    """Return the source that KIND:SHARE:FOLDER names.

    Raises:
        DataError: It is not written so.
    """
    kind, _, rest = text.partition(":")
    share, _, folder = rest.partition(":")
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if kind not in get_args(Kind) or not folder or not 0.0 < value < float("inf"):
        raise DataError(
            f"expected KIND:SHARE:FOLDER with the kind {', '.join(get_args(Kind))} and a share "
            f"above 0, found {text!r}"
        )
    return MixSource(cast("Kind", kind), value, Path(folder))


def main(typed: Sequence[str] | None = None) -> None:
    """Run one of the commands of the module's docstring."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    bursts = commands.add_parser("bursts", help="image pairs of exposure series")
    bursts.add_argument("folder", type=Path)
    bursts.add_argument("--out", type=Path, required=True)
    match = commands.add_parser("match", help="image pairs named alike but for their endings")
    match.add_argument("folder", type=Path)
    match.add_argument("--low", required=True, metavar="ENDING", help="of degraded images' names")
    match.add_argument("--high", required=True, metavar="ENDING", help="of the ground truth's")
    match.add_argument("--hold-out", required=True, metavar="REGEX", help="scenes that validate")
    match.add_argument("--leave-out", metavar="REGEX", help="scenes that are not used")
    match.add_argument("--out", type=Path, required=True)
    mix = commands.add_parser("mix", help="a training set of several sources")
    mix.add_argument("--source", action="append", required=True, metavar="KIND:SHARE:FOLDER")
    mix.add_argument("--leave-out", action="append", default=[], type=Path, metavar="TABLE")
    mix.add_argument("--variants", type=int, default=4, help="darkened images per clean one")
    mix.add_argument(
        "--noise", type=float, default=1.0, help="of every third, over that of the others"
    )
    mix.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(typed)
    try:
        if given.command == "bursts":
            count = write_burst_pairs(given.folder, given.out)
        elif given.command == "match":
            count = write_matched_pairs(
                given.folder,
                given.out,
                low=given.low,
                high=given.high,
                held_out=given.hold_out,
                left_out=given.leave_out,
            )
        else:
            sources = [parse_source(one) for one in given.source]
            count = write_mix(
                sources,
                given.out,
                left_out=given.leave_out,
                variants=given.variants,
                noise=given.noise,
            )
    except re.error as error:
        sys.exit(f"expected a regular expression, found {error.pattern!r}: {error}")
    except MirnetEdgeError as error:
        sys.exit(str(error))
    print(f"{given.out}: {count} pairs")


if __name__ == "__main__":
    main()
