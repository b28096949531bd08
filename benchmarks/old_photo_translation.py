"""Compare the fast old-photo network with triplet-domain translation, on held-out photos.

    python benchmarks/old_photo_translation.py build/translation/old-photo-translation.safetensors \
        --data FOLDER [--quick] [--sheet build/old-photos.png]

FOLDER holds what the recipe old-photo-translation names; only its held-out photos, overlays and
scans are read. Synthetic pairs come in two kinds: aged, with drawn damage, as both networks were
trained on; and with overlays on top, which the fast network was not.
PSNR is the mean over the photos, of all pixels and of the damaged ones alone.

Compared are the fast network (shipped:old-photo), translation alone, and what is the fast network's
but for the damage that the detector finds, which translation, or OpenCV's inpainting (Telea 2004),
fills in the fast network's result. "True mask" fills the damage that there is, which nobody knows
of a real scan: the bound of a better detector. --sheet writes the held-out scans side by side.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge import checkpoints
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.images.contract import batch_from_frames, frames_from_batch, pad_to_multiple
from mirnet_edge.metrics import psnr
from mirnet_edge.models.translation import MULTIPLE
from mirnet_edge.training.aging import age_with_damage
from mirnet_edge.training.loop import restore_frames
from mirnet_edge.training.translation.job import load_translation
from mirnet_edge.training.translation.recipe import TRANSLATION, read_translation_recipe
from mirnet_edge.training.translation.samples import load_data

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mirnet_edge.degradations import Overlay
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.models.translation import OldPhotoTranslation
    from mirnet_edge.training.aging import AgedPhoto

    Mask = NDArray[np.bool_]
    """(H, W)"""

QUICK_STEP = 4
KINDS = ("aged, drawn damage", "with overlays")
_LARGEST_SIDE = 512
_MARGIN = 2  # pixels around found damage that are filled too: its soft border
_INPAINTING_RADIUS = 3


class Restorers:
    """Both networks, and what is made of their results."""

    def __init__(self, translation: OldPhotoTranslation, fast: torch.nn.Module) -> None:
        """Take networks in evaluation mode."""
        self._translation, self._fast = translation, fast

    def find_damage(self, frame: Frame) -> Mask:
        """Return where the detector finds damage."""
        found = self._infer(lambda batch: self._translation.detector(batch) > 0.5, frame)
        return found[0, 0].numpy()

    def translate(self, frame: Frame, damage: Mask) -> Frame:
        """Return the frame, whose damage is known, as translation restores it."""
        height, width = (-side % MULTIPLE for side in damage.shape)
        mask = np.pad(damage, ((0, height), (0, width)), mode="symmetric")
        known = torch.from_numpy(mask[None, None].astype(np.float32))
        batch = self._infer(lambda photos: self._translation.translate(photos, known), frame)
        return frames_from_batch(batch.numpy())[0]

    def restore_fast(self, frame: Frame) -> Frame:
        """Return the frame as the fast network restores it."""
        return restore_frames(self._fast, frame[None])[0]

    def _infer(self, network: Callable[[torch.Tensor], torch.Tensor], frame: Frame) -> torch.Tensor:
        height, width = frame.shape[:2]
        padded = pad_to_multiple(frame[None], MULTIPLE)
        with torch.inference_mode():
            return network(torch.from_numpy(batch_from_frames(padded)))[..., :height, :width]

    def restore_all(self, frame: Frame, truth: Mask | None) -> tuple[dict[str, Frame], Mask]:
        """Return all results by name, and the damage found; TRUTH: that there is, if known."""
        found = self.find_damage(frame)
        fast = self.restore_fast(frame)
        results = {
            "fast network": fast,
            "translation": self.translate(frame, found),
            "fast, damage filled by translation": self._fill(fast, found),
            "fast, damage filled by inpainting": inpaint(fast, found),
        }
        if truth is not None:
            results |= {
                "translation, true mask": self.translate(frame, truth),
                "fast, true mask filled by translation": self._fill(fast, truth),
                "fast, true mask filled by inpainting": inpaint(fast, truth),
            }
        return results, found

    def _fill(self, frame: Frame, damage: Mask) -> Frame:
        return blend(frame, self.translate(frame, damage), damage)


def blend(frame: Frame, filling: Frame, damage: Mask) -> Frame:
    """Return a frame with another one's pixels where there is damage, and softly around it."""
    import cv2

    wide = widen(damage).astype(np.float32)
    weight = np.maximum(damage, cv2.GaussianBlur(wide, (0, 0), 1.0) * wide)[..., None]
    return np.rint(frame + weight * (filling.astype(np.float32) - frame)).astype(np.uint8)


def inpaint(frame: Frame, damage: Mask) -> Frame:
    """Return a frame whose damage is filled from its border.

    Telea, "An Image Inpainting Technique Based on the Fast Marching Method", 2004.
    """
    import cv2

    mask = widen(damage).astype(np.uint8)
    return np.asarray(cv2.inpaint(frame, mask, _INPAINTING_RADIUS, cv2.INPAINT_TELEA))


def widen(damage: Mask) -> Mask:
    """Return damage with a margin."""
    import cv2

    kernel = np.ones((2 * _MARGIN + 1,) * 2, np.uint8)
    return cv2.dilate(damage.astype(np.uint8), kernel) > 0


def make_pair(frame: Frame, place: int, kind: str, overlays: Sequence[Overlay]) -> AgedPhoto:
    """Return a held-out photo aged and damaged, the same at every call."""
    generator = np.random.default_rng((place, KINDS.index(kind)))
    fraction = 0.0 if kind == KINDS[0] else 0.8
    return age_with_damage(frame, generator, overlays, overlay_fraction=fraction)


def measure(
    restorers: Restorers, pairs: Sequence[AgedPhoto]
) -> tuple[dict[str, tuple[float, float]], float]:
    """Return the mean PSNR of all and of damaged pixels by result, and the found damage's IoU."""
    rows: dict[str, list[tuple[float, float]]] = {}
    both, either = 0, 0
    for pair in pairs:
        results, found = restorers.restore_all(pair.aged, pair.damage)
        both += int((found & pair.damage).sum())
        either += int((found | pair.damage).sum())
        for name, restored in {"input": pair.aged, **results}.items():
            figures = float(psnr(restored[None], pair.clean[None])[0]), pair.damage_db(restored)
            rows.setdefault(name, []).append(figures)
    means = {name: tuple(np.mean(figures, 0).tolist()) for name, figures in rows.items()}
    return means, both / max(either, 1)  # type: ignore[return-value]


def write_sheet(restorers: Restorers, scans: Sequence[Frame], path: Path) -> None:
    """Write scans beside what is made of them, and the damage that is found."""
    from PIL import Image, ImageDraw

    rows, titles = [], []
    for scan in scans:
        small = fit(scan)
        results, found = restorers.restore_all(small, None)
        mask = np.repeat((255 * found.astype(np.uint8))[..., None], 3, 2)
        cells = {"input": small, "damage found": mask, **results}
        titles = list(cells)
        rows.append(np.concatenate(list(cells.values()), 1))
    width = max(row.shape[1] for row in rows)
    sheet = Image.new("RGB", (width, sum(row.shape[0] + 20 for row in rows)), "white")
    top = 0
    for row in rows:
        for column, title in enumerate(titles):
            left = column * row.shape[1] // len(titles)
            ImageDraw.Draw(sheet).text((left + 4, top + 4), title, fill="black")
        sheet.paste(Image.fromarray(row), (0, top + 20))
        top += row.shape[0] + 20
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def fit(frame: Frame) -> Frame:
    """Return a frame of at most 512 pixels on its long side."""
    import cv2

    scale = _LARGEST_SIDE / max(frame.shape[:2])
    if scale >= 1.0:
        return frame
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))


def main() -> None:
    """Print the table, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="of translation")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default=TRANSLATION)
    parser.add_argument("--fast", default="shipped:old-photo", help="weights of the fast network")
    parser.add_argument("--quick", action="store_true", help="every fourth photo")
    parser.add_argument("--sheet", type=Path, help="image file for the held-out scans")
    given = parser.parse_args()
    try:
        _, held_out = load_data(read_translation_recipe(given.recipe), given.data)
        restorers = Restorers(
            load_translation(given.weights), checkpoints.load(given.fast).model.eval()
        )
    except MirnetEdgeError as error:
        sys.exit(str(error))
    photos = held_out.clean[0][:: QUICK_STEP if given.quick else 1]
    for kind in KINDS:
        pairs = [
            pair
            for place, photo in enumerate(photos)
            if (pair := make_pair(photo, place, kind, held_out.overlays)).damage.any()
        ]
        figures, iou = measure(restorers, pairs)
        share = np.mean([pair.damage.mean() for pair in pairs])
        print(
            f"\n## {kind}\n\n{len(pairs)} photos, {share:.1%} of the pixels damaged; IoU of found "
            f"damage {iou:.3f}\n\n| | PSNR (dB) | of damaged pixels (dB) |\n|---|---|---|"
        )
        for name, (whole, damaged) in figures.items():
            print(f"| {name} | {whole:.2f} | {damaged:.2f} |")
    if given.sheet:
        write_sheet(restorers, held_out.real, given.sheet)


if __name__ == "__main__":
    main()
