"""mirnet-bench: how fast and how good, as a report one can believe; and two reports compared."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mirnet_edge.cli.application import command, parsed_size, print_error, stderr
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.compare import Comparison
    from mirnet_edge.bench.job import BenchmarkJob, BenchmarkRequest, BenchmarkStage, BenchmarkSuite
    from mirnet_edge.bench.quality import BenchmarkClip
    from mirnet_edge.bench.record import Report

_PROGRAM = "mirnet-bench"
_INCOMPLETE, _REGRESSION = 3, 1
_COMPARE = "compare"
_WIDEST = 640  # of a clip that flicker is measured on: every row restores all of it


def bench(
    suite: Annotated[
        str | None, typer.Option(help="A TOML file, or the name of one in benchmarks/suites.")
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A bundle's folder; all its modes. Repeatable.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            help="LOW:HIGH, a folder with pairs.csv or of clean images, built-in, or none."
        ),
    ] = None,
    suffixes: Annotated[
        str | None, typer.Option(help="BAD,GOOD: how names end where one folder holds both.")
    ] = None,
    sigma: Annotated[
        list[float] | None, typer.Option(help="Make --pairs bad by white noise. Repeatable.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of the timed frames: WIDTHxHEIGHT, several with commas.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Only this backend's modes. Repeatable.")
    ] = None,
    competitor: Annotated[
        list[str] | None, typer.Option(help="Another network as an ONNX file. Repeatable.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="A classical method, or none; those of the task if left out."),
    ] = None,
    full_mirnet: Annotated[
        bool, typer.Option("--full-mirnet", help="Time the full network, random weights, too.")
    ] = False,
    frames: Annotated[
        list[str] | None,
        typer.Option(help="A video to measure flicker on, or still, a camera at rest. Repeatable."),
    ] = None,
    root: Annotated[
        Path, typer.Option("--data", help="Where competitors, images and videos are looked up.")
    ] = Path(),
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("build/bench"),
    rounds: Annotated[int | None, typer.Option(help="How often each row is timed.")] = None,
    row_seconds: Annotated[
        float | None, typer.Option(help="What one row may take; slow rows run less often.")
    ] = None,
    sustained: Annotated[
        float | None,
        typer.Option(help="Minutes that each bundle's row then runs without pause, at each size."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="How many each backend may use; its choice if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure bundles beside competitors and baselines; write JSON, CSV, Markdown and a page.

    `mirnet-bench compare OLD NEW` compares two reports. Exit code 3: images could not be read;
    the rest was measured.
    """
    from mirnet_edge.bench.job import BenchmarkSuite, PairSetEntry, read_suite

    if suite is None and not (bundle or competitor or baseline):
        raise OptionError("nothing to measure; give --suite FILE or --bundle DIR")
    chosen = BenchmarkSuite() if suite is None else read_suite(suite)
    quality = None
    if pairs is not None:
        ends = None if suffixes is None else _two(suffixes)
        quality = tuple(
            PairSetEntry(pairs=one, suffixes=ends, sigma=tuple(sigma or ()))
            for one in pairs
            if one != "none"
        )
    names = None if baseline is None else tuple(one for one in baseline if one != "none")
    changes = {
        "bundles": tuple(map(str, bundle)) if bundle else None,
        "backends": tuple(backend) if backend else None,
        "sizes": tuple(size.split(",")) if size else None,
        "competitors": tuple(competitor) if competitor else None,
        "baselines": names,
        "full_mirnet": full_mirnet or None,
        "rounds": rounds,
        "row_seconds": row_seconds,
        "sustained": sustained,
        "threads": threads,
        "quality": quality,
        "frames": tuple(frames) if frames else None,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    order = _order(chosen.model_copy(update=given), suite, root, out)
    report = _measured(order)
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=1) + "\n")
    else:
        _show(report, out)
    unreadable = [line for pairs_set in report.pair_sets for line in pairs_set.unreadable]
    if unreadable:
        for line in unreadable:
            print_error(_PROGRAM, line)
        print_error(_PROGRAM, f"{len(unreadable)} images could not be measured; the rest was")
        raise typer.Exit(_INCOMPLETE)


def compare(
    old: Annotated[Path, typer.Argument(help="The report.json that was; an older version's too.")],
    new: Annotated[Path, typer.Argument(help="The report.json that is.")],
    tolerance: Annotated[
        float, typer.Option(help="How much slower, as a share, is still called noise.")
    ] = 0.05,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative", help="Measure against competitors and classical methods of the run."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON.")] = False,
) -> None:
    """Compare two reports of one machine; exit code 1 where something became slower or worse."""
    import dataclasses

    from mirnet_edge.bench import compare as comparing
    from mirnet_edge.bench.record import read_report

    found = comparing.compare(
        read_report(old), read_report(new), tolerance=tolerance, relative=relative
    )
    if as_json:
        document = dataclasses.asdict(found) | {"regressions": found.regressions}
        # NaN is no JSON: a row that is gone has no ratio
        print(json.dumps(_without_nan(document), indent=1))
    else:
        _show_comparison(found)
    if found.regressions:
        for line in found.regressions:
            print_error(f"{_PROGRAM} {_COMPARE}", line)
        raise typer.Exit(_REGRESSION)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `mirnet-bench`, or `mirnet-bench compare` where that word comes first."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    if typed[:1] == [_COMPARE]:
        command(compare, f"{_PROGRAM} {_COMPARE}")(typed[1:])
    command(bench)(typed)


def _two(text: str) -> tuple[str, str]:
    bad, comma, good = text.partition(",")
    if not (bad and comma and good):
        raise OptionError(f"--suffixes must be BAD,GOOD like _real,_mean, found {text!r}")
    return bad, good


def _order(suite: BenchmarkSuite, name: str | None, root: Path, out: Path) -> BenchmarkRequest:
    from mirnet_edge.bench.job import BenchmarkRequest

    sizes = tuple(parsed_size(size, "--size") for size in suite.sizes)
    if any(min(size) < 1 for size in sizes):
        raise OptionError(f"--size must be positive, found {', '.join(suite.sizes)}")
    words = shlex.join([_PROGRAM, *sys.argv[1:]])
    return BenchmarkRequest(
        suite=suite, suite_name=name, sizes=sizes, root=root, out=out, command=words,
        clips=_clips(suite, root),
    )  # fmt: skip


def _clips(suite: BenchmarkSuite, root: Path) -> tuple[BenchmarkClip, ...]:
    """Return the videos of a suite; the still clip is the job's."""
    from mirnet_edge.bench.quality import CLIP_FRAMES, STILL, BenchmarkClip

    named = [one for one in suite.frames if one != STILL]
    if not named:
        return ()
    from mirnet_edge.video.live.sources import read_clip

    return tuple(
        BenchmarkClip(Path(one).stem, read_clip(root / one, CLIP_FRAMES, widest=_WIDEST))
        for one in named
    )


def _measured(order: BenchmarkRequest) -> Report:
    """Return the report, written; of an interrupted run what there is, marked partial."""
    from mirnet_edge.bench.job import BenchmarkJob
    from mirnet_edge.bench.markdown_report import write_report

    console = stderr()
    with console.status("start") as status:

        def show(stage: BenchmarkStage) -> None:
            status.update(str(stage))
            if not console.is_terminal and not stage.progress:
                console.print(str(stage), markup=False, highlight=False, soft_wrap=True)

        running = BenchmarkJob(order, show)
        try:
            running.run()
        except KeyboardInterrupt:
            _keep(running, order)
            raise
        report = running.report(partial=False)
        write_report(report, order.out)
    return report


def _keep(running: BenchmarkJob, order: BenchmarkRequest) -> None:
    from mirnet_edge.bench.markdown_report import write_report

    write_report(running.report(partial=True), order.out)
    print_error(_PROGRAM, f"what was measured is in {order.out}, marked partial")


def _show(report: Report, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from mirnet_edge.bench.tables import (
        format_value,
        latency_cells,
        quality_cells,
        report_notes,
        sustained_rate_lines,
    )

    console = Console()
    pairs = report.pair_sets[0].name if report.pair_sets else ""
    for size in report.sizes:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
        table.add_column(size, overflow="fold")
        for heading in ("latency p50 (ms)", "p95 (ms)", "cold start (ms)", "PSNR (dB)"):
            table.add_column(heading, justify="right")
        for row in report.rows:
            timing = next((one for one in row.timings if one.size == size), None)
            if timing is None:
                continue  # the notes below say why
            cells = latency_cells(timing) | quality_cells(row, report.rows, pairs)
            keys = (("p50_ms", 1), ("p95_ms", 1), ("cold_start_ms", 0),
                    ("psnr_db", 2))  # fmt: skip
            table.add_row(row.name, *(format_value(cells[key], digits) for key, digits in keys))
        console.print(table)
    for line in (*sustained_rate_lines(report), *report_notes(report)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Report: {out}/report.html", highlight=False, soft_wrap=True)


def _show_comparison(found: Comparison) -> None:
    for one in found.changes:
        if one.new_ms is None:
            print(f"{one.name} {one.size}: {one.old_ms:.1f} ms -> no longer measured")
            continue
        print(
            f"{one.name} {one.size}: {one.old_ms:.1f} -> {one.new_ms:.1f} ms, "
            f"x{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f}): {one.outcome}"
        )
    for drop in found.quality:
        print(f"{drop.name} on {drop.pairs}: {drop.old_db:.2f} -> {drop.new_db:.2f} dB")
    for label, names in (("only in OLD", found.only_old), ("only in NEW", found.only_new)):
        if names:
            print(f"{label}: {', '.join(names)}")
    if found.machine_ratio is not None:
        how = "divided out" if found.relative else "not divided out; --relative does"
        print(f"latency of unchanged entries: x{found.machine_ratio:.3f} ({how})")


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value  # NaN
