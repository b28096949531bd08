"""Which files a run restores, and where the results go.

A folder stands for the files in it. What is left out of it is returned with the reason, so that it
can be told. The name of a result follows from the input alone:

    photo.jpg                      photo.restored.jpg, beside it
    photo.jpg --out new.png        new.png
    photo.jpg --out restored/      restored/photo.jpg
    holiday/ --recursive --out r/  r/ with the tree of holiday/
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError
from mirnet_edge.files import NAME_BYTES, describe_special

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

RESTORED = ".restored"
"""Before the suffix of a result that is written beside its input."""
COMPARED = ".compare"
"""Before the suffix of a comparison."""
COMPARED_IMAGE, COMPARED_VIDEO = ".png", ".mp4"
"""Suffixes of comparisons."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file to restore."""

    path: Path
    folder: Path | None = None
    """The folder that was named and holds it; None for a file that was named itself."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file that is not restored, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class InputFiles:
    """The files of a run."""

    files: tuple[InputFile, ...]
    left_out: tuple[LeftOut, ...]
    folders: tuple[Path, ...]
    """Those that were named."""


def find_inputs(
    places: Sequence[Path],
    why_left_out: Callable[[Path], str | None],
    *,
    recursive: bool = False,
    out: Path | None = None,
) -> InputFiles:
    """Return the given files, and in place of each folder the files in it that can be restored.

    Results are not restored again: NAME.restored.SUFFIX and comparisons in a folder, or named
    beside their own input, are left out. A file that is given twice is returned once. Files that
    are named need not exist.

    Args:
        places: Files and folders.
        why_left_out: Why a file of a folder is no input, None where it is an image or a video.
        recursive: Also the folders in a folder, however deep.
        out: The folder of the results, which is no input where it lies within one.
    """
    found: dict[Path, InputFile] = {}
    left_out: dict[Path, LeftOut] = {}
    named = {place.resolve() for place in places}
    for place in places:
        if not place.is_dir():
            if _is_result(place) and _source_is_among(place, named):
                left_out.setdefault(place, LeftOut(path=place, reason="a result of this command"))
                continue
            found.setdefault(place.resolve(), InputFile(path=place))
            continue
        for path, reason in _walk(place, recursive=recursive, out=out):
            reason = reason or _reason_to_leave_out(path, why_left_out)
            if reason is not None:
                left_out.setdefault(path, LeftOut(path=path, reason=reason))
            else:
                found.setdefault(path.resolve(), InputFile(path=path, folder=place))
    return InputFiles(
        files=tuple(found.values()),
        left_out=tuple(left_out.values()),
        folders=tuple(place for place in places if place.is_dir()),
    )


def refuse_special(path: Path) -> None:
    """Refuse an input that is a pipe, a socket or a device: it is read more than once.

    Raises:
        OptionError: It is.
    """
    special = describe_special(path)
    if special is not None:
        raise OptionError(
            f"{path} is {special}; expected a file. Give - for what is piped in: "
            "... | mirnet restore - --out FILE"
        )


def _walk(folder: Path, *, recursive: bool, out: Path | None) -> Iterator[tuple[Path, str | None]]:
    """Yield what is in a folder, in order, and in its folders where RECURSIVE; nothing hidden.

    With each comes why it is left out, where that is known already: a folder that cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f"a folder that cannot be read: {error.strerror}"
        return
    for path in paths:
        if path.name.startswith("."):
            # what systems and programs keep for themselves: .DS_Store, the ._NAME.jpg that macOS
            # writes beside images, segments of an unfinished video
            continue
        if not path.is_dir():
            special = describe_special(path)
            yield path, None if special is None else f"{special}, no file"
        elif out is not None and path.resolve() == out.resolve():
            continue
        elif not recursive:
            yield path, "a folder; --recursive restores what is in it"
        elif not path.is_symlink():  # which may lead back here
            yield from _walk(path, recursive=True, out=out)


def _reason_to_leave_out(path: Path, why_left_out: Callable[[Path], str | None]) -> str | None:
    """Return why a file of a folder is not restored; None where it is."""
    if _is_result(path):
        return "a result of this command"
    return why_left_out(path)


def _is_result(path: Path) -> bool:
    is_comparison = path.suffix in (COMPARED_IMAGE, COMPARED_VIDEO) and path.stem.endswith(COMPARED)
    return is_comparison or path.stem.endswith(RESTORED)


def _source_is_among(result: Path, named: Iterable[Path]) -> bool:
    """Return whether a file that a result can come from is among those named."""
    stem = result.stem.removesuffix(COMPARED).removesuffix(RESTORED)
    folder = result.resolve().parent
    return any(one.parent == folder and one.stem == stem for one in named)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where results go: beside their inputs, into a folder, or to one file."""

    folder: Path | None = None
    file: Path | None = None

    @property
    def is_named(self) -> bool:
        """Return whether `--out` says where results go; a fine input is copied there alone."""
        return self.folder is not None or self.file is not None

    @classmethod
    def parse(cls, out: str | None, inputs: Sequence[Path], suffixes: Iterable[str]) -> Destination:
        """Return what `--out` names.

        A folder that is there, or a name that ends with a separator, is a folder. A name with the
        suffix of an image or a video is a file, where one file is restored. All others are folders.

        Args:
            out: As it was typed; None for beside the inputs.
            inputs: What is restored.
            suffixes: Of images and videos, in lower case.

        Raises:
            OptionError: A file's name for several inputs, or a file where a folder has to be.
        """
        if out is None:
            return cls()
        path = Path(out)
        separators = tuple(one for one in (os.sep, os.altsep) if one)
        if path.is_dir() or out.endswith(separators):
            _check_folder(path)
            return cls(folder=path)
        if path.suffix.lower() not in set(suffixes):
            _check_folder(path)
            return cls(folder=path)
        if len(inputs) > 1 or inputs[0].is_dir():
            what = "a folder" if len(inputs) == 1 else f"{len(inputs)} inputs"
            raise OptionError(
                f"--out {out} is the name of one file, and there are more to write: found {what}. "
                f"Name a folder, or {out}{os.sep} for a folder of that name"
            )
        _check_folder(path.parent)
        return cls(file=path)

    def path_of(self, source: InputFile, name: str | None = None) -> Path:
        """Return the result's file.

        Args:
            source: The input.
            name: Its name with a suffix that can be written, where that is another.
        """
        if self.file is not None:
            return self.file
        path = source.path.with_name(name or source.path.name)
        if self.folder is None:
            return path.with_name(_fitting_name(path.stem, f"{RESTORED}{path.suffix}"))
        if source.folder is None:
            return self.folder / path.name
        return self.folder / path.relative_to(source.folder)


def _fitting_name(stem: str, ending: str) -> str:
    """Return a name of at most `NAME_BYTES`: a longer stem ends with a hash of the whole."""
    if len(os.fsencode(stem + ending)) <= NAME_BYTES:
        return stem + ending
    mark = hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    short = stem
    while len(os.fsencode(f"{short}-{mark}{ending}")) > NAME_BYTES:
        short = short[:-1]
    return f"{short}-{mark}{ending}"


def comparison_of(output: Path, source: Path, suffix: str = COMPARED_IMAGE) -> Path:
    """Return the file of an image's or a video's comparison, beside its result."""
    return output.with_name(_fitting_name(source.stem, f"{COMPARED}{suffix}"))


def check_output(output: Path, source: Path, owners: Mapping[Path, Path]) -> None:
    """Refuse an output that is an input, another's result, or of too long a name.

    Args:
        output: The result or the comparison of SOURCE.
        source: An input.
        owners: By `normalized` place: each input as itself, and the input of each result so far.

    Raises:
        OptionError: It is refused.
    """
    size = len(os.fsencode(output.name))
    if size > NAME_BYTES:
        raise OptionError(
            f"the result of {source} would have a name of {size} bytes, expected at most "
            f"{NAME_BYTES}; give a shorter one with --out"
        )
    place = normalized(output)
    owner = owners.get(place)
    if owner is not None:
        what = "the input" if normalized(owner) == place else "the result of"
        raise OptionError(f"{output} would replace {what} {owner}; choose another --out folder")


def check_absent(output: Path, source: Path) -> None:
    """Refuse an output of SOURCE that is there already.

    Raises:
        OptionError: It is.
    """
    if output.exists():
        raise OptionError(
            f"{output} exists already, so {source} was not restored; --overwrite replaces it, "
            "--skip-existing leaves it"
        )


def normalized(path: Path) -> Path:
    """Return the place of a file: links resolved, lower case where case is ignored."""
    return Path(os.path.normcase(path.resolve()))


def _check_folder(folder: Path) -> None:
    """Refuse a folder for results that is a file, or lies below one.

    Raises:
        OptionError: It is.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise OptionError(
                f"{folder} cannot be written: {place} is a file; --out must be a folder, or the "
                "name of an image or a video for one input. Choose another"
            )
