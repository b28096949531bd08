"""Kill export, training, pruning and video restoration at random moments, and resume them.

    python benchmarks/kills.py [--job export] [--kills 100] [--seed 0]

Each job runs as a process of its own that SIGKILL ends, with its children, after a random share of
the time that an uninterrupted run takes; an export at a random moment of a random stage of those
that are still to come, because some stages take a hundredth of the time of others. After every kill
the former result must be whole, and after the last one the same command must end as the
uninterrupted run does:

- export: OUT is the whole former bundle or the whole new one, its files bound by their hashes; the
  graph in fp32 is that of the uninterrupted run.
- train: the resumed run ends at the same weights, bit for bit.
- prune: a latency table and a state that can be read; the resumed run ends with weights that load.
  It goes by measured latencies, so that two runs may choose other channels.
- video: no file of the result's name before the end; the resumed file is equal byte by byte.

Nothing unfinished may lie beside a result at the end. Exit code 1: something of this failed.

Of exports it is printed, too, how many kills came after which stage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import torch
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.files import sha256_of
from mirnet_edge.manifest import read_manifest, verify_graph, verify_path
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

if TYPE_CHECKING:
    from collections.abc import Callable

# kills of one run before it may end: the next one begins anew
KILLS_OF_A_RUN = 4
FRAMES = 150


@dataclass(frozen=True)
class KilledJob:
    """A command, what must hold after a kill, and what identifies its result."""

    name: str
    prepare: Callable[[Path], None]
    """Makes the folder of a run: inputs, and a former result where the job replaces one."""
    command: list[str]
    """Words after `mirnet`; run in the folder."""
    check: Callable[[Path], str | None]
    """Returns what is not whole after a kill, None where all is."""
    result: Callable[[Path], str]
    """Returns what must be equal to the uninterrupted run's."""
    stages: Callable[[Path], list[str]] | None = None
    """Returns the stages that a run has finished, in their order."""


@dataclass
class KillCount:
    """Outcomes of one job's kills."""

    kills: int = 0
    ended_before: int = 0
    """Runs that ended before the moment of their kill."""
    runs: int = 0
    seconds: float = 0.0
    """Of the uninterrupted run."""
    faults: list[str] = field(default_factory=list)
    progress: Counter[str] = field(default_factory=Counter)
    """How many kills came after each stage."""


def main() -> None:
    """Print a table row per job; exit with 1 where something was not whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=[job.name for job in JOBS], action="append")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| job | uninterrupted (s) | kills | ended before | runs resumed to the end | faults |")
    print("|---|---|---|---|---|---|")
    faults: list[str] = []
    for job in JOBS:
        if arguments.job and job.name not in arguments.job:
            continue
        with tempfile.TemporaryDirectory() as folder:
            count = kill_job(job, Path(folder), arguments.kills, random.Random(arguments.seed))
        print(
            f"| {job.name} | {count.seconds:.1f} | {count.kills} | {count.ended_before} | "
            f"{count.runs} | {len(count.faults)} |",
            flush=True,
        )
        for stage, times in count.progress.items():
            print(f"  {times} killed after {stage}", flush=True)
        faults += count.faults
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


def _watch_stages(job: KilledJob, folder: Path) -> tuple[int | None, list[float]]:
    """Run a job to its end; return its exit code and the seconds that each stage took.

    The last of them are from the last stage to the end.
    """
    process, ends = _start(job, folder), [time.monotonic()]
    while process.poll() is None:
        ends += [time.monotonic()] * (len(_stages_of(job, folder)) + 1 - len(ends))
        time.sleep(_POLL_S)
    ends.append(time.monotonic())
    return process.returncode, [end - start for start, end in pairwise(ends)]


def _stages_of(job: KilledJob, folder: Path) -> list[str]:
    return job.stages(folder) if job.stages is not None else []


_POLL_S = 0.02


def kill_job(job: KilledJob, work: Path, kills: int, moments: random.Random) -> KillCount:
    """Return the outcomes of killing a job KILLS times."""
    count = KillCount()
    straight = _fresh(job, work / "straight")
    expected_code, durations = _watch_stages(job, straight)
    count.seconds = sum(durations)
    expected = job.result(straight)
    while count.kills < kills:
        folder = _fresh(job, work / "killed")
        for _ in range(min(KILLS_OF_A_RUN, kills - count.kills)):
            # after so many stages, and so many seconds more
            after = moments.randrange(min(len(_stages_of(job, folder)), len(durations) - 1),
                                      len(durations))  # fmt: skip
            moment = moments.uniform(0.0, durations[after])
            ended = _run(job, folder, kill_after=(after, moment)) is not None
            count.kills += 1
            count.ended_before += ended
            stages = _stages_of(job, folder)
            if stages and not ended:
                count.progress[stages[-1]] += 1
            wrong = job.check(folder)
            if wrong is not None:
                count.faults.append(
                    f"{job.name}, killed {moment:.2f} s after {len(stages)} stages: {wrong}"
                )
        code = _run(job, folder)
        count.runs += 1
        if code != expected_code:
            count.faults.append(f"{job.name}: the resumed run ended with {code}")
        elif job.result(folder) != expected:
            count.faults.append(f"{job.name}: the result differs from the uninterrupted run's")
        if _listing(folder) != _listing(straight):
            more = sorted(_listing(folder) ^ _listing(straight))
            count.faults.append(f"{job.name}: left behind, or missing: {', '.join(more)}")
    return count


def _fresh(job: KilledJob, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    job.prepare(folder)
    return folder


def _start(job: KilledJob, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mirnet_edge", *job.command], cwd=folder, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _run(job: KilledJob, folder: Path, kill_after: tuple[int, float] | None = None) -> int | None:
    """Run a job in a folder; return its exit code, None where it was killed.

    Args:
        job: The job.
        folder: Prepared for it.
        kill_after: The number of finished stages, and seconds more; None for no kill.
    """
    process = _start(job, folder)
    if kill_after is None:
        return process.wait()
    after, seconds = kill_after
    while after and process.poll() is None and len(_stages_of(job, folder)) < after:
        time.sleep(_POLL_S)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _write_pairs(folder: Path) -> None:
    for kind in ("low", "high"):
        (folder / "pairs" / kind).mkdir(parents=True)
    for number in range(9):
        high = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(high // 5).save(folder / f"pairs/low/{number}.png")
        Image.fromarray(high).save(folder / f"pairs/high/{number}.png")


def _write_weights(folder: Path, name: str, seed: int, *, wide: bool = False) -> None:
    torch.manual_seed(seed)
    network = (
        MIRNet(MIRNetConfig(channels=16, groups=1, blocks=1, streams=1, columns=1))
        if wide
        # of all networks the one that is exported in the shortest time, all stages included
        else MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), exposure_channels=0, light=True))
    )
    checkpoints.save(network, folder / name, ModelCard(task="low-light"))


def _run_here(folder: Path, *command: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "mirnet_edge", *command], cwd=folder, check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


_CACHED = Path(tempfile.gettempdir()) / f"mirnet-kills-{os.getpid()}"


def _former_bundle(folder: Path) -> None:
    """Copy a bundle of other weights to out/, exported once."""
    if not _CACHED.exists():
        with tempfile.TemporaryDirectory() as scratch:
            _write_pairs(Path(scratch))
            _write_weights(Path(scratch), "former.safetensors", 1)
            _run_here(
                Path(scratch), "export", "--weights", "former.safetensors", "--calibration",
                "pairs", "--out", "out",
            )  # fmt: skip
            shutil.copytree(Path(scratch) / "out", _CACHED)
    shutil.copytree(_CACHED, folder / "out")


def _prepare_export(folder: Path) -> None:
    _write_pairs(folder)
    _write_weights(folder, "new.safetensors", 2)
    _former_bundle(folder)


def _check_bundle(folder: Path) -> str | None:
    try:
        found = read_manifest(folder / "out")
        verify_path(folder / "out", found.model.weights)
        for graph in found.graphs:
            if graph.kept:
                verify_graph(folder / "out", graph.onnx)
    except MirnetEdgeError as error:
        return str(error)
    return None


def _stages_of_export(folder: Path) -> list[str]:
    for record in folder.rglob("stages.json"):
        try:
            return list(json.loads(record.read_text())["stages"])
        except FileNotFoundError:
            return []  # the bundle was finished meanwhile
    return []


def _prepare_training(folder: Path) -> None:
    _write_pairs(folder)
    (folder / "kills.toml").write_text(
        'schema_version = 2\narchitecture = "edge"\n'
        "[network]\nchannels = [8, 8, 8]\nexposure_channels = 4\n"
        "[training]\nsteps = 120\nvalidate_every = 10\nbatch = 2\ncrops = [32]\n"
        "exposure_steps = 4\nexposure_batch = 2\n"
    )


def _check_state(folder: Path) -> str | None:
    state = folder / "out/state.pt"
    if state.exists():
        try:
            torch.load(state, weights_only=True)
        except Exception as error:  # noqa: BLE001  # whatever it is, the state is not whole
            return f"state.pt cannot be read: {error}"
    return None


def _weights_of(folder: Path, name: str) -> str:
    tensors = checkpoints.load(str(folder / name)).model.state_dict()
    return repr({key: one.numpy().tobytes().hex() for key, one in tensors.items()})


def _prepare_pruning(folder: Path) -> None:
    _write_pairs(folder)
    _write_weights(folder, "wide.safetensors", 3, wide=True)


def _result_of_pruning(folder: Path) -> str:
    return checkpoints.load(str(folder / "out/pruned.safetensors")).architecture


def _prepare_video(folder: Path) -> None:
    _former_bundle(folder)
    with av.open(folder / "film.mp4", "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = output.add_stream("aac", rate=48000)
        generator = np.random.default_rng(0)
        for _ in range(FRAMES):
            pixels = generator.integers(0, 60, (64, 96, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
        tone = np.zeros((2, 1024), np.float32)
        for place in range(FRAMES * 1920 // 1024):
            block = av.AudioFrame.from_ndarray(tone, format="fltp", layout="stereo")
            block.sample_rate, block.pts = 48000, place * 1024
            output.mux(sound.encode(block))
        output.mux(sound.encode())


def _check_video(folder: Path) -> str | None:
    result = folder / "done/film.mp4"
    if result.exists() and _frames(result) != FRAMES:
        return f"{result.name} is there with {_frames(result)} of {FRAMES} frames"
    return None


def _frames(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


JOBS = (
    KilledJob(
        "export", _prepare_export,
        ["export", "--weights", "new.safetensors", "--int8", "--calibration", "pairs", "--out",
         "out"],
        _check_bundle, lambda folder: sha256_of(folder / "out/fp32.onnx"), _stages_of_export,
    ),
    KilledJob(
        "train", _prepare_training,
        ["train", "--data", "pairs", "--out", "out", "--device", "cpu", "--recipe", "kills.toml"],
        _check_state, lambda folder: _weights_of(folder, "out/low-light.safetensors"),
    ),
    KilledJob(
        "prune", _prepare_pruning,
        ["prune", "--weights", "wide.safetensors", "--data", "pairs", "--out", "out", "--speedup",
         "1.1", "--backend", "onnxruntime", "--size", "64x64", "--steps", "10", "--batch", "1",
         "--crop", "16", "--device", "cpu"],
        _check_state, _result_of_pruning,
    ),
    KilledJob(
        "video", _prepare_video,
        ["restore", "film.mp4", "--bundle", "out", "--out", "done/", "--backend", "onnxruntime",
         "--skip-existing"],
        _check_video, lambda folder: sha256_of(folder / "done/film.mp4"),
    ),
)  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(_CACHED, ignore_errors=True)
