"""Kill export, prune or train at random moments; check that the former result is whole.

    python benchmarks/kills.py export --moments 20
    python benchmarks/kills.py train --data PAIRS --moments 20

The command runs once to its end, then again and again into the same folder, killed (SIGKILL) after
a random share of the time that it took. After each kill the result must open: the weights load,
each file of the bundle has the hash that its manifest says. At the end the command runs through
once more. The exit code is 1 where a result was broken, or the last run failed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.checkpoints.archives import read_layout
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.manifest import read_manifest, verify_graph, verify_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def check_bundle(out: Path) -> None:
    """Refuse a bundle that is not whole."""
    manifest = read_manifest(out)
    verify_path(out, manifest.model.weights)
    for graph in manifest.graphs:
        if graph.kept:
            verify_graph(out, graph.onnx)


def check_weights(out: Path) -> None:
    """Refuse a folder whose weights are not whole; before the first are written there are none."""
    for file in out.rglob("*.safetensors"):
        if not file.name.startswith("."):
            read_layout(file)


CHECKS: dict[str, Callable[[Path], None]] = {
    "export": check_bundle, "prune": check_weights, "train": check_weights,
}  # fmt: skip


def command(kind: str, out: Path, options: Sequence[str]) -> list[str]:
    """Return the program's arguments."""
    return [sys.executable, "-m", "mirnet_edge", kind, "--out", str(out), *options]


def run_and_kill(arguments: list[str], after_s: float) -> bool:
    """Run a program, kill it after a time, and return whether it was still running."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def main() -> int:
    """Print what happened; return 1 where a result was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=CHECKS)
    parser.add_argument("--moments", type=int, default=20, help="how many kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-minutes", type=float, default=30, help="of all runs together")
    known, options = parser.parse_known_args()
    moments = random.Random(known.seed)
    check = CHECKS[known.kind]
    broken = kills = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        arguments = command(known.kind, out, options)
        started = time.monotonic()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        whole_s = time.monotonic() - started
        check(out)
        for _ in range(known.moments):
            if time.monotonic() - begun > 60 * known.most_minutes:
                break
            after_s = moments.uniform(0, whole_s)
            kills += run_and_kill(arguments, after_s)
            try:
                check(out)
            except MirnetEdgeError as error:
                broken += 1
                print(f"killed after {after_s:.2f} s: {error}")
        last = subprocess.run(arguments, check=False, stdout=subprocess.DEVNULL)
        check(out)
        rest = [path.name for path in Path(folder).iterdir() if path != out]
    print(
        f"{known.kind}: {kills} kills in {whole_s:.1f} s runs, {broken} broken results, "
        f"last run: exit code {last.returncode}, left beside the result: {rest or 'nothing'}"
    )
    return int(broken > 0 or last.returncode != 0 or bool(rest))


if __name__ == "__main__":
    sys.exit(main())
