"""Distill a large network into small ones, and measure what each is worth: accuracy over latency.

    teacher ─┬─ train MIRNetEdge students (`training.job`), one for each recipe
             └─ prune the teacher (`pruning.job`), once for each speedup
                    └─ validate and time all of them beside the teacher ─► table, Pareto chart

Each student and each pruned network has a folder of its own, where its run resumes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mirnet_edge import checkpoints
from mirnet_edge.charts import Chart, ChartAxis, ChartPoint, scatter_chart
from mirnet_edge.errors import OptionError
from mirnet_edge.files import write_atomically
from mirnet_edge.manifest import StrictDocument
from mirnet_edge.models.macs import count_macs, count_parameters
from mirnet_edge.pruning.job import PruningRequest, load_pruning, prune_weights
from mirnet_edge.pruning.record import WEIGHTS_FILE, NetworkSize, PruningQuality
from mirnet_edge.pruning.timing import TimingConditions, time_networks, timing_conditions
from mirnet_edge.runtime.measure import p50
from mirnet_edge.training.job import TrainingRequest, train_weights
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.loop import validate
from mirnet_edge.training.pairs import degrade_images, load_pairs, require_measurable
from mirnet_edge.training.recipe import read_recipe
from mirnet_edge.training.tasks import find_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mirnet_edge.pruning.job import PruningObserver

RECORD_FILE = "distill.json"
CHART_FILE = "pareto.svg"
TEACHER = "teacher"
_ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class DistillationRequest:
    """The options of a run."""

    teacher: str
    """Weights, as `checkpoints.load` takes them."""
    teacher_key: str | None = None
    data: Path
    out: Path
    task: str = "low-light"
    recipes: tuple[str, ...]
    """Training recipes of the students, one student each."""
    speedups: tuple[float, ...] = ()
    """Also prune the teacher to these speedups."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of all recipes to override."""
    backend: str = "openvino"
    size: tuple[int, int] = (256, 256)
    """(height, width) of the timed frame."""
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    max_seconds: float = math.inf

    def __post_init__(self) -> None:
        """Refuse a run without a result, or with two of one name.

        Raises:
            OptionError: Neither a recipe nor a speedup, or one twice.
        """
        names = self.networks
        if not names:
            raise OptionError("expected a recipe or a speedup, found neither; give --recipe")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise OptionError(f"{twice[0]} is named twice; name each recipe and speedup once")

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the names of the networks that are made, which are those of their folders."""
        pruned = (f"pruned-{speedup:g}x" for speedup in self.speedups)
        return (*(Path(one).stem for one in self.recipes), *pruned)


class DistilledNetwork(StrictDocument):
    """A network of the comparison."""

    name: str
    weights: str
    size: NetworkSize
    latency_ms: float
    """Median of rounds that all networks took turns in."""
    quality: PruningQuality
    is_on_front: bool
    """Whether no other network is both faster and more accurate (Pareto front)."""


class DistillationRecord(StrictDocument):
    """What a run made: the teacher first, then its students and pruned forms.

    Schema history: 1 (2026-11) the first.
    """

    schema_version: Literal[1] = 1
    teacher_sha256: str
    data: str
    task: str
    conditions: TimingConditions
    finished: bool
    """Whether all networks were trained to their end."""
    networks: list[DistilledNetwork]


def distill_teacher(
    request: DistillationRequest,
    observer: PruningObserver,
    clock: Callable[[], float] = time.monotonic,
) -> DistillationRecord:
    """Train and prune, or resume, then compare; write `OUT/distill.json` and `OUT/pareto.svg`.

    What `max_seconds` leaves no time for is not made; the comparison holds what there is.

    Args:
        request: The options.
        observer: Gets the progress, and each network's name as its turn begins.
        clock: Monotonic seconds; replaced in tests.

    Raises:
        MirnetEdgeError: An option is wrong, or weights or images cannot be read.
        TrainingError: A loss or a weight diverged.
    """
    for recipe in request.recipes:
        read_recipe(recipe)
    loaded = checkpoints.load(request.teacher, request.teacher_key)
    conditions = timing_conditions(loaded.model, request.backend, request.size, 1)
    listing = list_pairs(request.data)
    ends = clock() + request.max_seconds
    made: dict[str, tuple[Path, int]] = {}
    finished = True
    makers = [_train_student] * len(request.recipes) + [_prune_teacher] * len(request.speedups)
    values = (*request.recipes, *request.speedups)
    for name, make, value in zip(request.networks, makers, values, strict=True):
        seconds = ends - clock()
        if made and seconds <= 0.0:
            finished = False
            break
        observer.on_stage(name)
        weights, steps, is_whole = make(request, name, value, seconds, observer)
        finished = finished and is_whole
        if weights.is_file():
            made[name] = (weights, steps)
    observer.on_stage("validate and time all networks")
    task = find_task(request.task)
    pairs = degrade_images(load_pairs(listing.val, degrade=task.degrade, scale=task.scale))
    require_measurable(pairs)
    networks: dict[str, nn.Module] = {TEACHER: loaded.model}
    networks |= {name: checkpoints.load(weights).model for name, (weights, _) in made.items()}
    qualities = {}
    for name, network in networks.items():
        figures = validate(network.eval(), pairs)
        steps = made[name][1] if name in made else 0
        qualities[name] = _quality(figures, steps)
    times = time_networks(networks, conditions, rounds=_ROUNDS)
    latencies = {name: p50(values) for name, values in times.items()}
    front = _find_front({name: (latencies[name], qualities[name].psnr_db) for name in networks})
    record = DistillationRecord(
        teacher_sha256=loaded.sha256,
        data=str(request.data),
        task=request.task,
        conditions=conditions,
        finished=finished,
        networks=[
            DistilledNetwork(
                name=name,
                weights=str(made[name][0]) if name in made else request.teacher,
                size=_size_of(network, request.size),
                latency_ms=latencies[name],
                quality=qualities[name],
                is_on_front=name in front,
            )
            for name, network in networks.items()
        ],
    )
    write_atomically(request.out / RECORD_FILE, record.model_dump_json(indent=1).encode())
    write_atomically(request.out / CHART_FILE, draw_comparison(record).to_file())
    return record


def draw_comparison(record: DistillationRecord) -> Chart:
    """Return the chart of PSNR over latency, the Pareto front joined."""
    by_latency = sorted(record.networks, key=lambda one: one.latency_ms)
    points = [
        ChartPoint(
            one.name,
            one.latency_ms,
            one.quality.psnr_db,
            "accent" if one.name == TEACHER else "primary",
            tooltip=f"{one.size.gmacs:.3g} GMACs, {one.size.parameters:,} parameters",
        )
        for one in by_latency
    ]
    height, width = record.conditions.size
    return scatter_chart(
        f"PSNR over latency of a teacher and of the networks that learned from it, "
        f"{width}x{height}, {record.conditions.backend}",
        points,
        ChartAxis(label=f"latency of {width}x{height} (ms), fp32", log=True),
        ChartAxis(label="PSNR on the val split (dB)", padding=0.1, format="{:.4g}".format),
        size=(880, 480),
        front=[place for place, one in enumerate(by_latency) if one.is_on_front],
    )


def _train_student(
    request: DistillationRequest,
    name: str,
    recipe: Any,  # noqa: ANN401  # a recipe's name or file
    seconds: float,
    observer: PruningObserver,
) -> tuple[Path, int, bool]:
    """Return the student's weights, their steps, and whether it was trained to its end."""
    trained = train_weights(
        TrainingRequest(
            data=request.data, out=request.out / name, task=request.task, recipe=recipe,
            training={"seed": request.seed, **request.training}, teacher=request.teacher,
            teacher_key=request.teacher_key, device=request.device, workers=request.workers,
            max_seconds=max(0.0, seconds),
        ),
        observer,
    )  # fmt: skip
    return trained.weights, trained.score.step, trained.score.step >= trained.steps


def _prune_teacher(
    request: DistillationRequest,
    name: str,
    speedup: Any,  # noqa: ANN401  # a number
    seconds: float,
    observer: PruningObserver,
) -> tuple[Path, int, bool]:
    """Return the pruned teacher's weights, their steps, and whether it was trained to its end."""
    training = {key: value for key, value in request.training.items() if key != "exposure_steps"}
    given = load_pruning(
        PruningRequest(
            weights=request.teacher, weights_key=request.teacher_key, data=request.data,
            out=request.out / name, speedup=speedup, task=request.task, backend=request.backend,
            size=request.size, training=training, seed=request.seed, device=request.device,
            workers=request.workers, max_seconds=max(0.0, seconds),
        )
    )  # fmt: skip
    record = prune_weights(given, observer)
    distilled = record.rounds[-1].distilled if record.rounds else None
    steps = 0 if distilled is None else distilled.steps
    return request.out / name / WEIGHTS_FILE, steps, record.finished


def _quality(figures: tuple[float, float, float, float], steps: int) -> PruningQuality:
    psnr_db, gtmean_db, ssim, _ = figures
    return PruningQuality(psnr_db=psnr_db, psnr_gtmean_db=gtmean_db, ssim=ssim, steps=steps)


def _size_of(network: nn.Module, size: tuple[int, int]) -> NetworkSize:
    return NetworkSize(gmacs=count_macs(network, *size) / 1e9, parameters=count_parameters(network))


def _find_front(points: dict[str, tuple[float, float]]) -> set[str]:
    """Return the names of points (ms, dB) that no other is both as fast and as accurate as."""
    return {
        name
        for name, (ms, db) in points.items()
        if not any(
            other_ms <= ms and other_db >= db and (other_ms, other_db) != (ms, db)
            for other_ms, other_db in points.values()
        )
    }
