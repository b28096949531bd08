"""`mirnet calibrate`: a calibration set from the user's own camera."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command, stderr
from mirnet_edge.cli.arguments import WEIGHTS_METAVAR, check_source, check_weights

if TYPE_CHECKING:
    from mirnet_edge.calibration.sampling import SamplingResult
    from mirnet_edge.export.analysis import EstimatorComparison


def calibrate(
    out: Annotated[Path, typer.Option(help="The set's folder; a former set is replaced.")],
    source: Annotated[
        str | None,
        typer.Option(
            help="A camera's number (0 is the first), a video file, or a folder.",
            show_default="the preset's",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--set",
            metavar="FILE|NAME",
            help="Calibration preset, which says how frames are sampled: a file, or night, "
            "indoor-camera, video, old-prints.",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Largest number of images.", show_default="the preset's, or 200"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Sampling seed.")] = 0,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar=WEIGHTS_METAVAR,
            help="Also compare the range estimators minmax, percentile and entropy for these "
            "weights.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Sample a calibration set: dark and bright, plain and detailed, no image twice."""
    if source is not None:
        check_source(source)
    check_weights(weights)
    from mirnet_edge.calibration.presets import choose_sampling
    from mirnet_edge.calibration.sampling import sample_set

    source, sampling, name = choose_sampling(preset, source, frames)
    console = stderr()
    with console.status("start") as status:
        sampled = sample_set(
            source, out, sampling=sampling, seed=seed, preset=name, on_stage=status.update
        )
        compared = None
        if weights is not None:
            from mirnet_edge.export.analysis import compare_estimators

            compared = compare_estimators(weights, out, status.update)
    if as_json:
        print(json.dumps(_document(sampled, compared)))
    else:
        _show(sampled, compared)


def _document(sampled: SamplingResult, compared: EstimatorComparison | None) -> dict[str, object]:
    found = sampled.described
    summary: dict[str, object] = {
        "set": str(sampled.folder),
        "images": len(found.files),
        "seen": found.seen,
        "near_duplicates": found.near_duplicates,
    }
    if compared is not None:
        summary["best"] = compared.best
        summary["against_fp32_db"] = {
            method: trial.against_fp32_db for method, trial in compared.trials.items()
        }
    return summary


def _show(sampled: SamplingResult, compared: EstimatorComparison | None) -> None:
    found = sampled.described
    print(
        f"{sampled.folder}: {len(found.files)} images of {found.width}x{found.height} from "
        f"{found.seen} frames, {found.near_duplicates} near-duplicates dropped"
    )
    for method, trial in () if compared is None else compared.trials.items():
        best = " *" if compared is not None and method == compared.best else ""
        print(f"{method:10}  {trial.against_fp32_db:6.2f} dB to fp32 (INT8 for TensorRT){best}")
    print(f"mirnet export --int8 --calibration {sampled.folder}")


main = command(
    calibrate,
    examples=(
        "calibrate --source 0 --out build/my_camera",
        "calibrate --source night.mp4 --set night --out build/night",
    ),
)
