"""`mirnet diagnose`: what is wrong with images and videos, and what restores them."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirnet_edge.cli.application import command, print_error
from mirnet_edge.cli.arguments import check_file
from mirnet_edge.errors import MirnetEdgeError

if TYPE_CHECKING:
    from mirnet_edge.diagnosis import Diagnosis

_INCOMPLETE = 2


def diagnose(
    inputs: Annotated[
        list[Path], typer.Argument(help="Images, videos, or folders of them.", metavar="FILE...")
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also look into folders of a folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print scores, sigma, labels and tasks as JSON.")
    ] = False,
) -> None:
    """Say what is wrong with images and videos, and which tasks restore them. Nothing is written.

    Labels: dark, noisy (with the noise's sigma in 8-bit levels), small or blurred, faded,
    scratched; or fine. A video gets one diagnosis from frames all over it.
    """
    if not any(path.exists() for path in inputs):
        check_file(inputs[0], "the input", "an image, a folder of images or a video")
    from mirnet_edge.cli.batch import left_out_lines
    from mirnet_edge.cli.restore import why_left_out_of_folder
    from mirnet_edge.runtime.inputs import find_inputs

    found = find_inputs(inputs, why_left_out_of_folder, recursive=recursive)
    for line in left_out_lines(found):
        print_error(line)
    diagnosed: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for one in found.files:
        try:
            diagnosis = diagnose_file(one.path)
        except Exception as error:  # noqa: BLE001  # whatever it is, the others are looked at
            reason = _describe_failure(one.path, error)
            failed.append({"input": str(one.path), "error": reason})
            print_error(reason)
            continue
        diagnosed.append({"input": str(one.path), **diagnosis.to_json()})
        if not as_json:
            print(f"{one.path}: {diagnosis.describe()}", flush=True)
    if as_json:
        print(json.dumps({"diagnosed": diagnosed, "failed": failed}, indent=1))
    if not found.files:
        print_error("no image or video was found; name files, or a folder with some")
    if failed or not found.files:
        raise typer.Exit(_INCOMPLETE)


def diagnose_file(path: Path) -> Diagnosis:
    """Return the diagnosis of an image file or of a video file.

    Raises:
        MirnetEdgeError: It cannot be read.
    """
    from mirnet_edge.diagnosis import diagnose_frames
    from mirnet_edge.images.files import apply_orientation, read_image
    from mirnet_edge.video.files.recognition import is_video
    from mirnet_edge.video.files.sampling import sample_frames

    if is_video(path):
        return diagnose_frames(sample_frames(path))
    return diagnose_frames([apply_orientation(read_image(path))])


def _describe_failure(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MirnetEdgeError):
        return text if path.name in text else f"{path}: {text}"
    return f"{path} cannot be looked at: {type(error).__name__}: {text}"


main = command(
    diagnose,
    examples=("diagnose photo.jpg", "diagnose holiday/ film.mp4 --recursive --json"),
)
