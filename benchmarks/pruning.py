"""Measure the accuracy drop of pruning: Taylor, magnitude and random channels at equal widths.

    python benchmarks/pruning.py --weights wide.safetensors --data lol --out build/pruning

For each speedup one `mirnet-prune --importance taylor` selects blocks and widths; the others prune
the same network to these (`--like`), so that latency, MACs and training are equal. Stopped runs
resume; a repeated call prints the table of finished runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirnet_edge.cli.arguments import parse_size
from mirnet_edge.cli.progress import TrainingProgress
from mirnet_edge.pruning.job import PruningRequest, load_pruning, prune_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirnet_edge.pruning.record import PruneRecord, PruningQuality, PruningRound

CONTROLS = ("magnitude", "random")


def requests_for(given: argparse.Namespace) -> dict[str, PruningRequest]:
    """Return the runs by name, each before those that reuse its widths."""
    found = {}
    for speedup in given.speedup:
        shared: dict[str, Any] = {
            "weights": given.weights, "data": given.data, "backend": given.backend,
            "size": parse_size(given.size, "--size"), "training": {"steps": given.steps},
            "workers": 0,
        }  # fmt: skip
        first = f"{speedup:g}x-taylor"
        found[first] = PruningRequest(**shared, out=given.out / first, speedup=speedup, blocks=True)
        for importance in CONTROLS:
            name = f"{speedup:g}x-{importance}"
            found[name] = PruningRequest(
                **shared, out=given.out / name, like=given.out / first, importance=importance
            )
    return found


def format_table(records: Mapping[str, PruneRecord]) -> str:
    """Return the results of runs as Markdown, the unpruned network first."""
    lines = [
        "| network | GMACs | speedup (x) | pruned: PSNR (dB) | trained: PSNR (dB) "
        "| gain over unpruned (dB) | brightness-matched PSNR (dB) | SSIM | steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for place, (name, record) in enumerate(records.items()):
        whole = record.unpruned
        if place == 0 and whole is not None:
            lines.append(
                f"| unpruned | {record.unpruned_size.gmacs:.2f} | 1.00 | | {whole.psnr_db:.2f} | | "
                f"{whole.psnr_gtmean_db:.2f} | {whole.ssim:.4f} | |"
            )
        if record.rounds and record.pruned_size is not None and whole is not None:
            lines.append(_row(name, record.rounds[-1], record.pruned_size.gmacs, whole))
    return "\n".join(lines)


def _row(name: str, last: PruningRound, gmacs: float, whole: PruningQuality) -> str:
    row = [name, f"{gmacs:.2f}", f"{last.chosen.speedup:.2f}", f"{last.cut.psnr_db:.2f}"]
    learned = last.distilled
    if learned is None:
        row += ["not trained yet", "", "", "", "0"]
    else:
        row += [
            f"{learned.psnr_db:.2f}", f"{learned.psnr_db - whole.psnr_db:+.2f}",
            f"{learned.psnr_gtmean_db:.2f}", f"{learned.ssim:.4f}", str(learned.steps),
        ]  # fmt: skip
    return f"| {' | '.join(row)} |"


def main() -> None:
    """Run what is not finished and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/pruning"))
    parser.add_argument("--speedup", type=float, nargs="+", default=[2.0, 4.0])
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--size", default="256x192")
    parser.add_argument("--steps", type=int, default=300)
    records = {}
    for name, request in requests_for(parser.parse_args()).items():
        given = load_pruning(request)
        if given.record.finished:
            records[name] = given.record
            continue
        with TrainingProgress.shown() as display:
            display.stage(name)
            records[name] = prune_weights(given, display)
    print(format_table(records))


if __name__ == "__main__":
    main()
