"""Restore image files into a folder, without name clashes and without overwriting inputs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.files import write_atomically
from mirnet_edge.images.animation import AnimationFrame
from mirnet_edge.images.files import (
    ImageFile,
    apply_orientation,
    format_of,
    read_image,
    result_name,
    to_gray,
    write_image,
)
from mirnet_edge.images.kinds import FORMAT_OF_SUFFIX
from mirnet_edge.images.sixteen_bits import from_float_frame, to_8_bits, to_float_frame, widen
from mirnet_edge.runtime.chaining import enlarge
from mirnet_edge.runtime.inputs import comparison_of, normalized
from mirnet_edge.runtime.runner import as_float_runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.images.animation import Animation
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.runner import Runner

logger = logging.getLogger(__name__)

_SEPARATOR_WIDTH, _SEPARATOR_LEVEL = 4, 255


@dataclass(frozen=True, kw_only=True)
class RestoredImage:
    """The result of restoring one image file."""

    source: Path
    output: Path
    comparison: Path | None
    """Before and after side by side, where `compare` is set."""
    width: int
    """Of the result, in pixels."""
    height: int
    latency_ms: float
    """Of the runner alone, without decoding and encoding. A runner's first image of a size can
    take longer."""


def restore_image(runner: Runner, image: ImageFile) -> ImageFile:
    """Return a restored image of its source's kind, with its alpha channel and metadata.

    Gray stays gray, in a file of three equal channels too. 16 bits are restored from floats, where
    the runner takes them; else from 8 bits, which is logged. Super-resolution enlarges the alpha
    channel by bicubic interpolation. Of an animation, each frame is restored.

    Args:
        runner: Open.
        image: Of any size.

    Raises:
        ImageError: Not of the size the bundle was exported for.
        EngineError: The runner is not open, or failed.
    """
    deep = None
    is_gray = image.gray or _has_equal_channels(image.frame if image.deep is None else image.deep)
    if image.deep is None:
        frame = runner.run(image.frame[None])[0]
    else:
        deep = _restore_deep(runner, image, image.deep)
        deep = to_gray(deep) if is_gray else deep
        frame = to_8_bits(deep)
    if is_gray:
        frame = to_gray(frame)
    alpha, deep_alpha = image.alpha, image.deep_alpha
    if alpha is not None and alpha.shape != frame.shape[:2]:
        alpha = enlarge(alpha, *frame.shape[:2])
    if deep_alpha is not None and deep_alpha.shape != frame.shape[:2]:
        deep_alpha = _enlarge_deep(deep_alpha, *frame.shape[:2])
    animation = image.animation and _restore_animation(runner, image.animation)
    return replace(
        image, frame=frame, deep=deep, alpha=alpha, deep_alpha=deep_alpha, animation=animation
    )


def _restore_animation(runner: Runner, animation: Animation) -> Animation:
    frames = []
    for one in animation.frames:
        after = restore_image(runner, ImageFile(frame=one.frame, alpha=one.alpha))
        frames.append(AnimationFrame(frame=after.frame, alpha=after.alpha))
    return replace(animation, frames=tuple(frames))


def _has_equal_channels(pixels: NDArray[Any]) -> bool:
    """Return whether (H, W, 3) pixels are gray: scans are often stored as RGB."""
    green = pixels[..., 1]
    return bool((pixels[..., 0] == green).all() and (pixels[..., 2] == green).all())


def _restore_deep(runner: Runner, image: ImageFile, deep: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return (scale H, scale W, 3) of 16 bits, of an image and its levels of 16 bits."""
    floats = as_float_runner(runner)
    if floats is not None:
        return from_float_frame(floats.run_float(to_float_frame(deep)))
    if image.source_bits == 16:
        logger.warning(
            "%s gives 8 bits alone: images of 16 bits are written with 256 levels. For all of them "
            "choose --backend openvino, onnxruntime or torch",
            runner.name,
        )
    return widen(runner.run(image.frame[None])[0])


def restore_files(
    images: Sequence[Path],
    runner: Runner,
    out: Path,
    *,
    compare: bool = False,
    on_done: Callable[[RestoredImage], None] = lambda restored: None,
    on_failed: Callable[[Path, Exception], None] | None = None,
) -> list[RestoredImage]:
    """Restore image files into a folder, under their own names and in their own formats.

    Args:
        images: Files.
        runner: Open or not.
        out: The folder; created where it is missing.
        compare: Also write STEM.compare.png: before and after side by side, as a viewer shows it.
        on_done: Called with each result once it is written.
        on_failed: Called with each image that could not be restored, whatever the error, in place
            of raising it.

    Returns:
        The results, in the order of the images.

    Raises:
        OptionError: Two outputs would have one name, or an output would replace an input;
            nothing is written then.
        MirnetEdgeError: The runner cannot be opened; or, where `on_failed` is None, as
            `restore_file`.
    """
    check_outputs(images, out, compare=compare)
    done = []
    with runner:
        for source in images:
            try:
                output, *others = _targets(source, out, compare)
                comparison = others[0] if others else None
                restored = restore_file(source, runner, output, comparison=comparison)
            except Exception as error:  # whatever it is, the others are restored
                if on_failed is None:
                    raise
                on_failed(source, error)
                continue
            done.append(restored)
            on_done(restored)
    return done


def check_outputs(images: Sequence[Path], out: Path, *, compare: bool) -> None:
    """Refuse outputs that would replace each other or an input, before anything is written.

    Raises:
        OptionError: An output would, or the output folder is a file.
    """
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out must be a folder, {out} is a file; choose another")
    inputs = {normalized(image): image for image in images}
    owners: dict[Path, Path] = {}
    for image in images:
        for target in _targets(image, out, compare):
            place = normalized(target)
            if place in inputs:
                raise OptionError(
                    f"{target} would replace the input {inputs[place]}; choose another --out folder"
                )
            if place in owners:
                raise OptionError(
                    f"{owners[place]} and {image} would both be written to {target}; "
                    "restore them into different folders"
                )
            owners[place] = image


def side_by_side(before: Frame, after: Frame) -> Frame:
    """Return two frames side by side with a thin white line between them.

    BEFORE is resized to AFTER by bicubic interpolation, as a viewer does.
    """
    if before.shape != after.shape:
        before = enlarge(before, *after.shape[:2])
    line = np.full((before.shape[0], _SEPARATOR_WIDTH, 3), _SEPARATOR_LEVEL, np.uint8)
    return np.concatenate([before, line, after], axis=1)


def _enlarge_deep(levels: NDArray[np.uint16], height: int, width: int) -> NDArray[np.uint16]:
    from PIL import Image

    floats = Image.fromarray(levels.astype(np.float32))
    large = np.asarray(floats.resize((width, height), Image.Resampling.BICUBIC))
    enlarged: NDArray[np.uint16] = np.rint(large).clip(0, 65535).astype(np.uint16)
    return enlarged


def restore_file(
    source: Path,
    runner: Runner | None,
    output: Path,
    *,
    comparison: Path | None = None,
    before: ImageFile | None = None,
) -> RestoredImage:
    """Restore an image file into another, with its metadata.

    Args:
        source: The file.
        runner: Open; None writes the image as it is, the same bytes where the format is the same.
        output: In the format of its suffix; a file that is there is replaced.
        comparison: Also written: before and after side by side, as a viewer shows it.
        before: The content of SOURCE, where it was read already.

    Raises:
        ImageError: It cannot be read, does not fit, or cannot be written in that format.
        MirnetEdgeError: The folder cannot be written, or the runner failed.
    """
    kind = format_of(output)  # a name that cannot be written is refused before the work
    before = read_image(source) if before is None else before
    started = time.perf_counter()
    try:
        after = before if runner is None else restore_image(runner, before)
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from error
    latency_ms = 1e3 * (time.perf_counter() - started)
    is_same = FORMAT_OF_SUFFIX.get(source.suffix.lower()) == kind == before.format
    if runner is None and is_same:
        write_atomically(output, source.read_bytes())
    else:
        write_image(output, after)
    if comparison is not None:
        frame = side_by_side(apply_orientation(before), apply_orientation(after))
        write_image(comparison, ImageFile(frame=frame, icc=before.icc))
    return RestoredImage(
        source=source,
        output=output,
        comparison=comparison,
        width=after.frame.shape[1],
        height=after.frame.shape[0],
        latency_ms=latency_ms,
    )


def _targets(image: Path, out: Path, compare: bool) -> list[Path]:
    output = out / result_name(image)
    return [output, comparison_of(output, image)] if compare else [output]
