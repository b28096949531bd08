"""Measure low-light weights on several sources that no one trained or chose on, by mean rank.

    python benchmarks/low_light_sources.py shipped:low-light NEW.safetensors --data FOLDER [--quick]

FOLDER holds `lol/` (pairs.csv and pairs_twin.csv), `vilnc/`, `photos/bsds500/`, `night/` and the
competitor models in `peers/`; what is missing is left out with a line. `--bursts` names the folder
that `mirnet_edge.training.mixing bursts` writes. Each model is a weights file (or shipped:NAME),
run in fp32 by torch, or the folder of a bundle. Only validation images are read.

Competitors that take one size get images padded by reflection (and portraits turned), larger ones
scaled down and up again. MobileIE and LYT-Net were trained on LOL's training part, from which both
LOL rows are: their figures there are of known images.

Ranks: on each source the models are ranked by PSNR, by PSNR at equal brightness and by SSIM
(daylight: by PSNR alone); a model's rank there is the mean of the three. Ratios of colorfulness and
contrast to the ground truth's, and flicker, are shown and not ranked.

`--thumbnails` measures the exposure branches of weights alone, on the thumbnails that they see: in
seconds, without the rest of the network, competitors, flicker, cache or image files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import mirnet_edge
from mirnet_edge import checkpoints
from mirnet_edge.bench.entries import open_competitor
from mirnet_edge.bench.quality import still_clip
from mirnet_edge.degradations import Noise, add_noise
from mirnet_edge.errors import MirnetEdgeError, OptionError
from mirnet_edge.images.files import read_image
from mirnet_edge.metrics import colorfulness, contrast, flicker, psnr, psnr_gtmean, ssim
from mirnet_edge.training.listing import list_images, list_pairs, match_pairs, read_pair_table
from mirnet_edge.training.loop import restore_frames
from mirnet_edge.training.pairs import thumbnail_from_frame
from mirnet_edge.training.tasks import photograph_at_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.training.listing import PairFiles

    Restore = Callable[[Frame], Frame]
    """(H, W, 3) uint8 to the same."""

DUSK, NIGHT = (0.15, 0.5), (0.01, 0.1)
"""Fractions of the light of the synthetic sources."""
QUICK_STEP = 3
FIGURES = ("dB", "dB at equal brightness", "SSIM", "colorfulness", "contrast")
_RANKED = 3
_MOST_DB = 60.0
_FLICKER_FRAMES = 8
_LARGEST_SIDE = 600
"""Longer images are scaled down: a competitor takes no more than 800x400."""


@dataclass(frozen=True)
class Source:
    """Images to measure on."""

    name: str
    images: Callable[[], Iterator[tuple[Frame, Frame]]]
    """Yields degraded input and ground truth."""
    ranked: int = _RANKED
    """How many of the figures are ranked."""


def list_sources(data: Path, bursts: Path | None, step: int) -> list[Source]:
    """Return the sources whose folders are there; a line on stderr for each that is not."""
    lol, photos, vilnc = data / "lol", data / "photos" / "bsds500", data / "vilnc"
    series = data / "bursts" if bursts is None else bursts
    candidates = {
        "lol, val scenes": (lol, lambda: iterate_pairs(list_pairs(lol).val, step)),
        "lol, twins": (
            lol,
            lambda: iterate_pairs(read_pair_table(lol, "pairs_twin.csv")["val"], step),
        ),
        "lol, val scenes, noise of 4 levels": (
            lol,
            lambda: iterate_pairs(list_pairs(lol).val, step, Noise(sigma=4.0)),
        ),
        "vilnc": (vilnc, lambda: iterate_pairs(match_pairs(vilnc / "low", vilnc / "high"), step)),
        "bursts": (series, lambda: iterate_pairs(list_pairs(series).val, step)),
        "synthetic dusk": (photos, lambda: iterate_photos(photos, step, DUSK)),
        "synthetic night": (photos, lambda: iterate_photos(photos, step, NIGHT)),
        "daylight": (photos, lambda: iterate_photos(photos, step)),
    }
    sources = []
    for name, (folder, images) in candidates.items():
        if folder.is_dir():
            sources.append(Source(name, images, 1 if name == "daylight" else _RANKED))
        else:
            print(f"{name}: {folder} is not there; left out", file=sys.stderr)
    return sources


def iterate_pairs(
    pairs: Sequence[PairFiles], step: int, noise: Noise | None = None
) -> Iterator[tuple[Frame, Frame]]:
    """Yield every STEP-th pair (degraded, ground truth), with more noise in the input."""
    for place, pair in enumerate(pairs[::step]):
        if pair.degraded is not None:
            low, high = (fit(read_image(path).frame) for path in (pair.degraded, pair.target))
            if noise is not None:
                low = add_noise(low, noise, np.random.default_rng(place))
            yield low, high


def iterate_photos(
    folder: Path, step: int, exposures: tuple[float, float] | None = None
) -> Iterator[tuple[Frame, Frame]]:
    """Yield every STEP-th validation photo, darkened by a random camera, and itself."""
    for place, pair in enumerate(list_pairs(folder).val[::step]):
        frame = read_image(pair.target).frame
        low = frame
        if exposures is not None:
            low = photograph_at_random(frame, np.random.default_rng(place), exposures)
        yield low, frame


def fit(frame: Frame) -> Frame:
    """Return the frame, scaled down so that it is at most 600 wide and, if square, 400."""
    import cv2

    height, width = frame.shape[:2]
    scale = min(1.0, _LARGEST_SIDE / max(height, width), 400 / min(height, width))
    if scale == 1.0:
        return frame
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))


def open_model(name: str) -> tuple[str, Restore]:
    """Return a digest and the restoring function of weights, a bundle or a competitor's file."""
    path = Path(name)
    if path.suffix == ".onnx":
        return _digest(path), _open_onnx(path)
    if path.is_dir():
        runner = mirnet_edge.open_bundle(path)
        runner.__enter__()
        return _digest(path / "manifest.json"), lambda frame: runner.run(frame[None])[0]
    loaded = checkpoints.load(name)
    model = loaded.model.eval()
    return loaded.sha256, lambda frame: restore_frames(model, frame[None])[0]


def open_exposure_branch(name: str) -> Restore:
    """Return the function that gives a frame's thumbnail, exposed by the weights' exposure branch.

    It takes (H, W, 3) uint8 and returns (24, 36, 3) uint8.

    Raises:
        OptionError: The weights have no exposure branch.
    """
    model = checkpoints.load(name).model.eval()
    branch = getattr(model, "exposure", None)
    if branch is None:
        raise OptionError(f"{name}: expected weights with an exposure branch, found none")

    def restore(frame: Frame) -> Frame:
        # float, as the branch sees it: the mean levels of a dark frame are not whole numbers
        thumbnail = thumbnail_from_frame(frame)[None]
        with torch.no_grad():
            return _to_frame(branch(thumbnail, thumbnail)[0].permute(1, 2, 0).numpy())

    return restore


def reduce_targets(source: Source) -> Source:
    """Return the source with the thumbnails of its ground truth."""

    def images() -> Iterator[tuple[Frame, Frame]]:
        for low, high in source.images():
            yield low, _to_frame(thumbnail_from_frame(high).permute(1, 2, 0).numpy())

    return replace(source, images=images)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _open_onnx(path: Path) -> Restore:
    import onnx

    model = onnx.load(path)
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    if shape[3] == 3:  # LYT-Net: NHWC in [-1, 1], fixed size
        session = _session(model)
        return lambda frame: _in_fixed_size(
            frame, (shape[1], shape[2]),
            lambda x: session.run(None, {session.get_inputs()[0].name: x[None] * 2 - 1})[0][0]
            / 2 + 0.5,
        )  # fmt: skip
    if shape[2] and shape[3]:  # MobileIE: convolutions alone, so any size will do
        for value in (model.graph.input[0], model.graph.output[0]):
            for axis, symbol in ((2, "height"), (3, "width")):
                value.type.tensor_type.shape.dim[axis].dim_param = symbol
        del model.graph.value_info[:]
        session = _session(model)

        def restore(frame: Frame) -> Frame:
            batch = (frame.astype(np.float32) / 255.0).transpose(2, 0, 1)[None]
            output = session.run(None, {session.get_inputs()[0].name: batch})[0][0]
            return _to_frame(output.transpose(1, 2, 0))

        return restore
    runner = open_competitor(path, threads=1)
    runner.__enter__()
    return lambda frame: runner.run(frame[None])[0]


def _session(model):  # noqa: ANN001, ANN202  # neither package has types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _in_fixed_size(frame: Frame, size: tuple[int, int], infer: Callable) -> Frame:
    """Return the frame as a network of one size restores it: padded, portraits turned."""
    if frame.shape[0] > frame.shape[1]:
        turned = np.ascontiguousarray(frame.transpose(1, 0, 2))
        return _in_fixed_size(turned, size, infer).transpose(1, 0, 2)
    height, width = frame.shape[:2]
    padding = ((0, size[0] - height), (0, size[1] - width), (0, 0))
    padded = np.pad(frame, padding, mode="symmetric").astype(np.float32) / 255.0
    return _to_frame(infer(padded)[:height, :width])


def _to_frame(image: np.ndarray) -> Frame:
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def measure(
    restore: Restore, sources: Sequence[Source], night: Path | None
) -> dict[str, list[float]]:
    """Return the figures of a model by source, and its flicker on the photos of NIGHT."""
    table = {}
    for source in sources:
        rows = []
        for low, high in source.images():
            one, two = restore(low)[None], high[None]
            quality = [float(metric(one, two)[0]) for metric in (psnr, psnr_gtmean, ssim)]
            ratios = [
                float(metric(one)[0] / max(metric(two)[0], 1e-3))
                for metric in (colorfulness, contrast)
            ]
            rows.append([*(min(figure, _MOST_DB) for figure in quality), *ratios])
        table[source.name] = np.mean(rows, 0).tolist()
    if night and night.is_dir():
        ratios = []
        for pair in list_images(night)[:2]:
            clip = still_clip(read_image(pair.target).frame, _FLICKER_FRAMES)
            ratios.append(flicker(np.stack([restore(fit(frame)) for frame in clip]), clip))
        table["flicker"] = [float(np.mean(ratios))]
    return table


SHEET_SCENES = (
    ("coffee", 0.2, 3),
    ("chelsea", 0.06, 4),
    ("rocket", 0.3, 1),
    ("astronaut", 0.03, 2),
)
"""Photos of scikit-image, fraction of the light, seed of the camera."""
_SHEET_CROP, _SHEET_BORDER, _SHEET_TITLE = 200, 4, 22


def write_sheet(models: dict[str, Restore], path: Path) -> None:
    """Write crops at 1:1 of dark photos, beside what each model makes of them and the clean one."""
    import skimage
    from PIL import Image, ImageDraw

    folder = Path(skimage.__file__).parent / "data"
    titles = ["input", *models, "ground truth"]
    cell = _SHEET_CROP + _SHEET_BORDER
    size = (cell * len(titles), cell * len(SHEET_SCENES) + _SHEET_TITLE)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, exposure, seed) in enumerate(SHEET_SCENES):
        file = next(folder.glob(f"{name}.*"))
        clean = fit(read_image(file).frame)
        dark = photograph_at_random(clean, np.random.default_rng(seed), (exposure, exposure))
        images = [dark, *(restore(dark) for restore in models.values()), clean]
        top, left = ((side - _SHEET_CROP) // 2 for side in clean.shape[:2])
        for column, image in enumerate(images):
            crop = image[top : top + _SHEET_CROP, left : left + _SHEET_CROP]
            sheet.paste(Image.fromarray(crop), (column * cell, row * cell + _SHEET_TITLE))
    for column, title in enumerate(titles):
        draw.text((column * cell + 4, 5), title, fill="black")
    sheet.save(path, quality=92)


def write_before_after(restore: Restore, path: Path) -> None:
    """Write a photo with a twentieth of its light beside what a model makes of it."""
    import skimage
    from PIL import Image

    clean = read_image(Path(skimage.__file__).parent / "data" / "astronaut.png").frame
    dark = photograph_at_random(clean, np.random.default_rng(3), (0.05, 0.05))
    border = np.full((clean.shape[0], _SHEET_BORDER, 3), 255, np.uint8)
    Image.fromarray(np.hstack((dark, border, restore(dark)))).save(path, quality=92)


def rank(tables: dict[str, dict[str, list[float]]], sources: Sequence[Source]) -> dict:
    """Return each model's rank by source, 1 the best, and the mean of these."""
    ranks: dict[str, dict[str, float]] = {name: {} for name in tables}
    for source in sources:
        figures = np.array([table[source.name][: source.ranked] for table in tables.values()])
        # the mean of the places that equal figures share
        better = (figures[None] > figures[:, None]).sum(1)
        equal = (figures[None] == figures[:, None]).sum(1)
        places = (better + (equal + 1) / 2.0).mean(1)
        for name, place in zip(tables, places.tolist(), strict=True):
            ranks[name][source.name] = place
    return {
        name: {**row, "mean": float(np.mean(list(row.values())))} for name, row in ranks.items()
    }


def main() -> None:
    """Print a table for each source, and the mean ranks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="weights, shipped:NAME, bundles or ONNX files")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bursts", type=Path)
    parser.add_argument("--quick", action="store_true", help="every third image")
    parser.add_argument("--cache", type=Path, help="folder to keep figures of measured models in")
    parser.add_argument("--sheet", type=Path, help="write crops at 1:1 to this image file")
    parser.add_argument(
        "--before-after", type=Path, help="write a dark photo and the first model's result"
    )
    parser.add_argument("--no-competitors", action="store_true")
    parser.add_argument(
        "--thumbnails", action="store_true", help="measure the weights' exposure branches alone"
    )
    given = parser.parse_args()
    step = QUICK_STEP if given.quick else 1
    sources = list_sources(given.data, given.bursts, step)
    if given.thumbnails:
        print_thumbnails(given.models, [reduce_targets(source) for source in sources])
        return
    if not (given.data / "night").is_dir():
        print(f"flicker: {given.data / 'night'} is not there; left out", file=sys.stderr)
    peers = given.data / "peers"
    competitors = [
        peers / f"{name}.onnx"
        for name in ("mobileie_lolv1", "lyt_net_lolv1_800x400", "zero_dce", "bread_fullres")
    ]
    for file in competitors:
        if not file.is_file():
            print(f"{file.stem}: {file} is not there; left out", file=sys.stderr)
    here = [str(file) for file in competitors if file.is_file() and not given.no_competitors]
    tables, models = {}, {}
    for name in [*given.models, *here]:
        started = time.monotonic()
        try:
            digest, restore = open_model(name)
        except MirnetEdgeError as error:
            sys.exit(str(error))
        key = [digest, step, sorted(source.name for source in sources)]
        cached = (
            given.cache and given.cache / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.json"
        )
        if cached and cached.is_file():
            table = json.loads(cached.read_text())
        else:
            table = measure(restore, sources, given.data / "night")
            if cached:
                cached.parent.mkdir(parents=True, exist_ok=True)
                cached.write_text(json.dumps(table))
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        title = Path(name).stem if name in here else name
        tables[title], models[title] = table, restore
    print_tables(tables, sources)
    write_images(given, models)


def write_images(given: argparse.Namespace, models: dict[str, Restore]) -> None:
    """Write the image files that the command line names."""
    if given.sheet:
        write_sheet(models, given.sheet)
    if given.before_after:
        write_before_after(models[given.models[0]], given.before_after)


def print_thumbnails(names: Sequence[str], sources: Sequence[Source]) -> None:
    """Print the figures and ranks of exposure branches alone."""
    tables = {}
    for name in names:
        try:
            restore = open_exposure_branch(name)
        except MirnetEdgeError as error:
            sys.exit(str(error))
        tables[name] = measure(restore, sources, None)
    print_tables(tables, sources)


def print_tables(tables: dict[str, dict[str, list[float]]], sources: Sequence[Source]) -> None:
    """Print the figures by source, and the ranks."""
    for source in sources:
        print(f"\n## {source.name}\n\n| model | {' | '.join(FIGURES)} |\n|---|---|---|---|---|---|")
        for name, table in tables.items():
            psnr_db, matched_db, similarity, colors, spread = table[source.name]
            print(
                f"| {name} | {psnr_db:.2f} | {matched_db:.2f} | {similarity:.3f} | {colors:.2f} | "
                f"{spread:.2f} |"
            )
    ranks = rank(tables, sources)
    columns = [*(source.name for source in sources), "mean"]
    print(f"\n## Ranks\n\n| model | {' | '.join(columns)} | flicker |")
    print("|---" * (len(columns) + 2) + "|")
    for name, row in ranks.items():
        text = " | ".join(f"{row[column]:.2f}" for column in columns)
        changes = f"{tables[name]['flicker'][0]:.2f}" if "flicker" in tables[name] else "-"
        print(f"| {name} | {text} | {changes} |")


if __name__ == "__main__":
    main()
