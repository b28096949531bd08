"""`mirnet bench`: speed and quality as a report, and two reports compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command, command_line, print_error, stderr
from mirnet_edge.cli.arguments import (
    INPUT,
    QUALITY,
    SIZE_METAVAR,
    SPEED,
    check_bundle,
    check_file,
    parse_size,
)
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirnet_edge.bench.compare import Comparison
    from mirnet_edge.bench.instruction_sets import InstructionSetTiming
    from mirnet_edge.bench.job import BenchmarkJob, BenchmarkRequest, BenchmarkStage, BenchmarkSuite
    from mirnet_edge.bench.quality import BenchmarkClip
    from mirnet_edge.bench.record import Report

_INCOMPLETE, _REGRESSION = 3, 1
_CLIP_WIDTH = 640  # of a clip that flicker is measured on: every row restores all of it
_SUITE = "the suite's"


def bench(
    suite: Annotated[
        str | None,
        typer.Option(
            help="Benchmark suite: a TOML file, or the name of one of this package.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            help="A bundle's folder or shipped:NAME; all its configurations. Repeatable.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    competitor: Annotated[
        list[str] | None,
        typer.Option(help="A competitor model as an ONNX file. Repeatable.", rich_help_panel=INPUT),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="A classical baseline, or none. Repeatable.",
            show_default="those of the task",
            rich_help_panel=INPUT,
        ),
    ] = None,
    full_mirnet: Annotated[
        bool,
        typer.Option(
            "--full-mirnet",
            help="Time the full-size network too, with random weights.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this backend's configurations. Repeatable.",
            show_default="all",
            rich_help_panel=INPUT,
        ),
    ] = None,
    root: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Folder that competitors, images and videos are looked up in.",
            rich_help_panel=INPUT,
        ),
    ] = Path(),
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            help="Image pairs: LOW:HIGH, a folder with pairs.csv or of clean images, built-in, or "
            "none. Repeatable.",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    suffixes: Annotated[
        str | None,
        typer.Option(
            metavar="DEGRADED,CLEAN",
            help="Ends of the names where one folder holds both, as _real,_mean.",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            help="Degrade --pairs by white noise of this standard deviation. Repeatable.",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    frames: Annotated[
        list[str] | None,
        typer.Option(
            help="A video to measure flicker on, or still, a fixed camera. Repeatable.",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar=SIZE_METAVAR,
            help="Size of the timed frames; several with commas.",
            show_default=_SUITE,
            rich_help_panel=SPEED,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="How often each row is timed.", show_default=_SUITE, rich_help_panel=SPEED
        ),
    ] = None,
    row_seconds: Annotated[
        float | None,
        typer.Option(
            help="Seconds that one row may take; slow rows run less often.",
            show_default=_SUITE,
            rich_help_panel=SPEED,
        ),
    ] = None,
    sustained: Annotated[
        float | None,
        typer.Option(
            help="Minutes that each bundle's row then runs without pause, at each size.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of each backend.",
            show_default="the backend's choice",
            rich_help_panel=SPEED,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("build/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure bundles beside competitor models and baselines; write JSON, CSV, Markdown and HTML.

    `--suite review` shows each task's network beside the classical methods, a report for each task;
    `--suite cpu` compares with other networks by instruction set, beside the processor's peak.
    `compare OLD NEW` compares two reports. Exit code 3: images could not be read; the others were
    measured.
    """
    if suite is None and not (bundle or competitor or baseline):
        raise OptionError("nothing to measure; give --suite FILE or --bundle DIR")
    for one in (size or "").split(",") if size else ():
        parse_size(one, "--size")
    for folder in bundle or ():
        check_bundle(folder)
    for one in competitor or ():
        check_file(root / one, "--competitor", "an ONNX file")
    from mirnet_edge.bench.job import BenchmarkSuite, PairSetEntry, read_suite

    chosen = BenchmarkSuite() if suite is None else read_suite(suite)
    quality = None
    if pairs is not None:
        ends = None if suffixes is None else _parse_suffixes(suffixes)
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
    if chosen.instruction_sets:
        changed = chosen.model_copy(update=given)
        _bench_instruction_sets(_request(changed, suite, root, out), as_json=as_json)
        return
    _bench_parts(chosen, suite, given, root, out, as_json=as_json)


def _bench_parts(
    chosen: BenchmarkSuite,
    suite: str | None,
    given: Mapping[str, object],
    root: Path,
    out: Path,
    *,
    as_json: bool,
) -> None:
    """Measure a suite, or each of its parts, write the reports and print them.

    Raises:
        Exit: Images could not be read.
    """
    suites = {"": chosen}
    if chosen.parts:
        suites = _read_parts(chosen, f"the suite {suite}", given)
    reports = {}
    for part, wanted in suites.items():
        # nobody asked for quality by name: it is left out where its images are not installed
        measured = _without_missing_images(wanted) if "quality" not in given else wanted
        request = _request(measured.model_copy(update=given), part or suite, root, out / part)
        reports[part] = _measure(request)
    _print_reports(reports, out, as_json=as_json)
    unreadable = [
        line for one in reports.values() for pair_set in one.pair_sets
        for line in pair_set.unreadable
    ]  # fmt: skip
    if unreadable:
        for line in unreadable:
            print_error(line)
        print_error(f"{len(unreadable)} images could not be measured; the rest was")
        raise typer.Exit(_INCOMPLETE)


def _bench_instruction_sets(request: BenchmarkRequest, *, as_json: bool) -> None:
    """Measure a suite by instruction set, print each table, and write the report.

    After an interruption or an error the report holds what was measured until then.
    """
    from mirnet_edge.bench.instruction_sets import InstructionSetJob, write_processor_report

    progress = stderr()
    running = InstructionSetJob(
        request, lambda stage: progress.print(stage, markup=False, highlight=False)
    )
    try:
        for timing in running.run():
            if not as_json:
                _show_timing(timing)
    finally:
        if running.timings:
            write_processor_report(running.report(), request.out)
    if as_json:
        sys.stdout.write(running.report().model_dump_json(indent=1) + "\n")
    else:
        print(f"Report: {request.out}/report.md")


def _show_timing(timing: InstructionSetTiming) -> None:
    from rich.console import Console
    from rich.table import Table

    from mirnet_edge.bench.instruction_sets import describe_timing, timing_table

    console = Console()
    content = timing_table(timing)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for place, heading in enumerate(content.headings):
        table.add_column(heading, justify="left" if place == 0 else "right", overflow="fold")
    for cells in content.lines:
        table.add_row(*cells)
    console.print(table)
    for line in describe_timing(timing):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _read_parts(
    suite: BenchmarkSuite, title: str, given: Mapping[str, object]
) -> dict[str, BenchmarkSuite]:
    """Return the parts of a suite by name; refuse options that fit the task of one part alone."""
    from mirnet_edge.bench.job import read_suite

    unfit = sorted(set(given) & {"bundles", "competitors", "baselines", "quality"})
    if unfit:
        raise OptionError(
            f"{title} has parts of several tasks; options for {', '.join(unfit)} fit one of them. "
            f"Choose a part: --suite {' or --suite '.join(suite.parts)}"
        )
    return {name: read_suite(name) for name in suite.parts}


def _print_reports(reports: Mapping[str, Report], out: Path, *, as_json: bool) -> None:
    if not as_json:
        for part, report in reports.items():
            _show(report, out / part)
        return
    texts = [report.model_dump_json(indent=1) for report in reports.values()]
    sys.stdout.write((texts[0] if "" in reports else f"[{','.join(texts)}]") + "\n")


def compare(
    old: Annotated[Path, typer.Argument(help="The former report.json; an older schema's too.")],
    new: Annotated[Path, typer.Argument(help="The new report.json.")],
    tolerance: Annotated[
        float, typer.Option(help="Slowdown, as a share, that still counts as noise.")
    ] = 0.05,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative", help="Relative to the competitor models and baselines of each run."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON.")] = False,
) -> None:
    """Compare two reports of one machine; exit code 1: something became slower or worse."""
    for report in (old, new):
        check_file(report, "the report", "a report.json of mirnet bench")
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
            print_error(line)
        raise typer.Exit(_REGRESSION)


def _parse_suffixes(text: str) -> tuple[str, str]:
    degraded, comma, clean = text.partition(",")
    if not (degraded and comma and clean):
        raise OptionError(f"--suffixes must be DEGRADED,CLEAN like _real,_mean, found {text!r}")
    return degraded, clean


def _without_missing_images(suite: BenchmarkSuite) -> BenchmarkSuite:
    """Return a suite that measures no quality where its images are not installed; this is said."""
    from mirnet_edge.bench.quality import BUILT_IN
    from mirnet_edge.dependencies import available, missing_text

    if available("skimage") or not any(one.pairs == BUILT_IN for one in suite.quality):
        return suite
    print_error(
        missing_text("latency alone is measured: quality on the built-in images", "skimage")
    )
    kept = tuple(one for one in suite.quality if one.pairs != BUILT_IN)
    return suite.model_copy(update={"quality": kept})


def _request(suite: BenchmarkSuite, name: str | None, root: Path, out: Path) -> BenchmarkRequest:
    from mirnet_edge.bench.job import BenchmarkRequest
    from mirnet_edge.bench.quality import BUILT_IN
    from mirnet_edge.dependencies import require

    if any(one.pairs == BUILT_IN for one in suite.quality):
        require("skimage", f"measuring quality on the {BUILT_IN} images (--pairs)")
    sizes = tuple(parse_size(size, "--size") for size in suite.sizes)
    return BenchmarkRequest(
        suite=suite, suite_name=name, sizes=sizes, root=root, out=out, command=command_line(),
        clips=_clips(suite, root),
    )  # fmt: skip


def _clips(suite: BenchmarkSuite, root: Path) -> tuple[BenchmarkClip, ...]:
    """Return the videos of a suite, without the still clip, which the job makes."""
    from mirnet_edge.bench.quality import CLIP_FRAMES, STILL, BenchmarkClip

    named = [one for one in suite.frames if one != STILL]
    if not named:
        return ()
    from mirnet_edge.video.live.sources import read_clip

    return tuple(
        BenchmarkClip(Path(one).stem, read_clip(root / one, CLIP_FRAMES, widest=_CLIP_WIDTH))
        for one in named
    )


def _measure(request: BenchmarkRequest) -> Report:
    """Return the report after writing it; an interrupted run's is marked partial."""
    from mirnet_edge.bench.job import BenchmarkJob
    from mirnet_edge.bench.markdown_report import write_report

    console = stderr()
    with console.status("start") as status:

        def show(stage: BenchmarkStage) -> None:
            status.update(str(stage))
            if not console.is_terminal and not stage.progress:
                console.print(str(stage), markup=False, highlight=False, soft_wrap=True)

        running = BenchmarkJob(request, show)
        try:
            running.run()
        except KeyboardInterrupt:
            _keep(running, request)
            raise
        report = running.report(partial=False)
        write_report(report, request.out)
    return report


def _keep(running: BenchmarkJob, request: BenchmarkRequest) -> None:
    from mirnet_edge.bench.markdown_report import write_report

    write_report(running.report(partial=True), request.out)
    print_error(f"what was measured is in {request.out}, marked partial")


def _show(report: Report, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from mirnet_edge.bench.statistics import describe_instability
    from mirnet_edge.bench.tables import (
        format_value,
        latency_cells,
        quality_cells,
        report_notes,
        sustained_rate_lines,
    )

    console = Console()
    unstable = describe_instability(report)
    if unstable is not None:
        console.print(
            f"{unstable}; ratios within this report hold", highlight=False, markup=False,
            soft_wrap=True,
        )  # fmt: skip
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


main = command(
    bench,
    examples=(
        "bench --bundle build/bundle --size 640x480",
        "bench --suite quick --out build/bench",
        "bench compare old/report.json build/bench/report.json",
    ),
    subcommands={
        "compare": command(
            compare, examples=("bench compare old/report.json build/bench/report.json",)
        )
    },
)
