"""Which pictures quality is measured on, read one at a time: one that is broken is only named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.calibration.builtin import builtin_set
from mirnet_edge.degradations import Noise, noisy
from mirnet_edge.errors import DataError, ImageError
from mirnet_edge.images import size_text
from mirnet_edge.pictures import FORMAT_OF_SUFFIX, read_picture
from mirnet_edge.training.listing import Pair, list_pairs, pairs_between, read_table
from mirnet_edge.training.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirnet_edge.images import Frame

BUILT_IN = "built-in"
_TABLE = "pairs.csv"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A set of pairs."""

    name: str
    task: str
    pairs: tuple[Pair, ...] = ()
    """None where the set is the built-in one."""
    sigma: float | None = None
    """White noise, in 8-bit levels, that makes the good pictures bad; None: as the task does."""

    def __len__(self) -> int:
        """Return how many pictures there are, readable or not."""
        return len(self.pairs) or len(builtin_set(self.task).judging)

    def pictures(self) -> Iterator[tuple[str, Frame, Frame] | ImageError]:
        """Yield each picture's name, what goes in and what is to come out, or why it cannot."""
        if not self.pairs:
            for sample in builtin_set(self.task).judging:
                if sample.reference is not None:
                    yield sample.name, sample.frame, sample.reference
            return
        for place, pair in enumerate(self.pairs):
            try:
                yield self._read(pair, place)
            except ImageError as error:
                yield error

    def _read(self, pair: Pair, place: int) -> tuple[str, Frame, Frame]:
        task = task_of(self.task)
        high = read_picture(pair.high).frame
        if pair.low is None:
            height, width = (side // task.scale * task.scale for side in high.shape[:2])
            high = high[:height, :width]
            return pair.high.stem, self._made_bad(high, np.random.default_rng(place)), high
        low = read_picture(pair.low).frame
        expected = (low.shape[0] * task.scale, low.shape[1] * task.scale)
        if high.shape[:2] != expected:
            raise ImageError(
                f"{pair.low} is {size_text(*low.shape[:2])} and {pair.high} "
                f"{size_text(*high.shape[:2])}; expected {size_text(*expected)}. Leave the pair out"
            )
        return pair.low.stem, low, high

    def _made_bad(self, clean: Frame, generator: np.random.Generator) -> Frame:
        if self.sigma is None:
            return task_of(self.task).degrade(clean, generator)
        return noisy(clean, Noise(sigma=self.sigma), generator)


def sources_of(
    places: str,
    task: str,
    *,
    suffixes: tuple[str, str] | None = None,
    sigmas: tuple[float, ...] = (),
) -> list[Source]:
    """Return the sets that a --pairs value names.

    Args:
        places: LOW:HIGH (two folders whose files match by name), a folder (with a pairs.csv, of
            which the `val` and `test` splits count; with low/ and high/; or of clean pictures,
            made bad the task's way), or `built-in`.
        task: What the networks do.
        suffixes: How the names of bad and good pictures end, where one folder holds both.
        sigmas: Clean pictures are made bad by white noise of these strengths, a set for each.

    Raises:
        DataError: Nothing there, or pictures without a partner.
    """
    if places == BUILT_IN:
        return [Source(name=f"{BUILT_IN} {task}", task=task)]
    low, colon, high = places.partition(":")
    if colon:
        name = f"{Path(low).name}:{Path(high).name}"
        return [Source(name=name, task=task, pairs=tuple(pairs_between(Path(low), Path(high))))]
    folder = Path(places)
    name = folder.resolve().name
    if suffixes is not None:
        return [Source(name=name, task=task, pairs=_by_suffixes(folder, *suffixes))]
    pairs = _of_folder(folder)
    if not sigmas:
        return [Source(name=name, task=task, pairs=pairs)]
    clean = tuple(Pair(None, pair.high, pair.scene) for pair in pairs)
    return [
        Source(name=f"{name} sigma {sigma:g}", task=task, pairs=clean, sigma=sigma)
        for sigma in sigmas
    ]


def _of_folder(folder: Path) -> tuple[Pair, ...]:
    if (folder / _TABLE).is_file():
        splits = read_table(folder)
        pairs = splits["val"] + splits["test"]
        if not pairs:
            raise DataError(
                f"{folder / _TABLE} has no row whose split is val or test; pictures that were "
                "trained on prove nothing. Give some that were not"
            )
        return pairs
    if (folder / "low").is_dir() and (folder / "high").is_dir():
        return tuple(pairs_between(folder / "low", folder / "high"))
    # clean pictures: every tenth, those that training leaves out too
    return list_pairs(folder).val


def _by_suffixes(folder: Path, bad: str, good: str) -> tuple[Pair, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one of pictures")
    known = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMAT_OF_SUFFIX]
    low = [path for path in known if path.stem.endswith(bad)]
    pairs = [(path, path.with_stem(path.stem.removesuffix(bad) + good)) for path in low]
    missing = [high.name for _, high in pairs if not high.is_file()]
    if missing or not pairs:
        raise DataError(
            f"{folder} holds {len(low)} pictures whose names end in {bad}, {len(missing)} of them "
            f"without one that ends in {good} ({', '.join(missing[:3])}); mend the suffixes"
        )
    return tuple(Pair(one, two, one.stem) for one, two in pairs)
