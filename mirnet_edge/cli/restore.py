"""mirnet-restore: pictures and videos in, restored ones out."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mirnet_edge.cli.application import command, complain, parsed_size, stderr
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from mirnet_edge.errors import ImageError
    from mirnet_edge.runtime.restore import Restored
    from mirnet_edge.runtime.runner import Runner

_PROGRAM = "mirnet-restore"
_INCOMPLETE = 2
_ENGINES = ("local", "ray")


def restore(
    images: Annotated[
        list[Path],
        typer.Argument(help="Pictures (PNG, JPEG, WebP, TIFF), folders of them, or videos."),
    ],
    bundle: Annotated[Path, typer.Option(help="A bundle's folder, made by mirnet-export.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; they keep their names.")],
    backend: Annotated[
        str, typer.Option(help="auto, openvino, onnxruntime, torch or tensorrt.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16, fp16, int8, int8+bf16 or int8+fp16.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="How many to use; the backend decides if left out. With --engine ray: for each "
            "video; an equal share if left out."
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            help="Restore large pictures in tiles: WIDTHxHEIGHT, or auto: the size of the "
            "bundle's graphs, or what --max-memory allows."
        ),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(help="MiB that restoring may take beside the picture; sets the tiles' size."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write NAME.compare.png: before and after.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Leave out what --out holds already, whatever made it."
        ),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="local: one video after the other; ray: one task each, on a Ray cluster or, "
            "without one, on this machine's cores."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="A running cluster, for --engine ray; it must see the same paths.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Restore pictures and videos with a bundle.

    What cannot be read is named; the others are restored, and the exit code is 2. Videos keep
    every frame, its time, and the sound; the same command goes on with one that was cut off.
    """
    if engine not in _ENGINES:
        raise OptionError(f"--engine must be one of {', '.join(_ENGINES)}, found {engine!r}")
    from mirnet_edge.cli.restore_videos import by_ray, here, report_of, restored_videos
    from mirnet_edge.runtime.choice import RunnerChoice
    from mirnet_edge.runtime.restore import check_outputs, is_restored, pictures_in
    from mirnet_edge.video import outputs
    from mirnet_edge.video.restoring import is_video

    videos = [path for path in images if is_video(path) and not path.is_dir()]
    pictures = pictures_in([path for path in images if path not in videos])
    skipped: set[Path] = set()
    if skip_existing:
        check_outputs(pictures, out, compare=compare)  # an input is not its own result
        asked = len(pictures) + len(videos)
        skipped = {path for path in pictures if is_restored(path, out, compare=compare)}
        skipped |= {path for path in videos if outputs.is_restored(path, out)}
        pictures = [path for path in pictures if path not in skipped]
        videos = [path for path in videos if path not in skipped]
        if skipped:
            complain(_PROGRAM, f"{len(skipped)} of {asked} results are in {out} already")
    choice = RunnerChoice(
        bundle=bundle, backend=backend, precision=precision, threads=threads, tile=_tile(tile),
        max_memory_mib=max_memory,
    )  # fmt: skip
    runner = choice.runner()
    work = by_ray(choice, ray_address) if engine == "ray" else here(runner, choice)
    done, failed = _restored(pictures, runner, out, compare=compare) if pictures else ([], [])
    films, failed_films = restored_videos(_PROGRAM, videos, work, out)
    if as_json:
        report = _report(runner, done, failed)
        if skip_existing:
            report["skipped"] = sorted(map(str, skipped))
        if videos:
            report |= report_of(films, failed_films)
        print(json.dumps(report, indent=1))
    for kind, lost, asked in (
        ("pictures", len(failed), len(pictures)),
        ("videos", len(failed_films), len(videos)),
    ):
        if lost and asked > 1:
            complain(_PROGRAM, f"{lost} of {asked} {kind} were not restored")
    if failed or failed_films:
        raise typer.Exit(_INCOMPLETE)


def _tile(text: str | None) -> tuple[int, int] | Literal["auto"] | None:
    if text is None or text == "auto":
        return None if text is None else "auto"
    return parsed_size(text, "--tile")


def _restored(
    pictures: list[Path], runner: Runner, out: Path, *, compare: bool
) -> tuple[list[Restored], list[tuple[Path, ImageError]]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from mirnet_edge.runtime.restore import restore_files

    console = stderr()
    failed: list[tuple[Path, ImageError]] = []
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with runner, shown as progress:
        bar = progress.add_task(runner.name, total=len(pictures))

        def show(line: str) -> None:
            progress.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
            progress.advance(bar)

        def fail(path: Path, error: ImageError) -> None:
            failed.append((path, error))
            show(f"{_PROGRAM}: {' '.join(str(error).split())}")

        done = restore_files(
            pictures,
            runner,
            out,
            compare=compare,
            on_done=lambda one: show(
                f"{one.output}  {one.width}x{one.height}  {one.latency_ms:.1f} ms  {runner.name}"
            ),
            on_failed=fail,
        )
    return done, failed


def _report(
    runner: Runner, done: list[Restored], failed: list[tuple[Path, ImageError]]
) -> dict[str, Any]:
    return {
        "runner": runner.name,
        "restored": [
            {
                "input": str(one.source),
                "output": str(one.output),
                "comparison": str(one.comparison) if one.comparison else None,
                "width": one.width,
                "height": one.height,
                "latency_ms": round(one.latency_ms, 3),
            }
            for one in done
        ],
        "failed": [{"input": str(path), "error": str(error)} for path, error in failed],
    }


main = command(restore)
