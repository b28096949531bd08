"""What a benchmark report says: its schema, and reading it without trusting it.

A figure that was not measured is None, null in JSON: never zero, never a guess. Raw samples are
kept, all of them; medians and verdicts are computed from them when a report is shown. Only of
sustained runs, which have too many, each part's figures are kept.

Schema history: 1 (2026-11) the first; 2 (2026-11) sustained runs, energy and graphics cards'
clocks, reports of schema 1 still read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationError

from mirnet_edge.errors import DataError
from mirnet_edge.images.contract import size_text
from mirnet_edge.manifest import MachineFacts, StrictDocument

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 3
_READ = (1, 2, 3)
NOT_MEASURED = "not measured"

Kind = Literal["bundle", "competitor", "baseline", "random weights"]
State = Literal["measured", "missing", "failed"]
MeterKind = Literal["package", "gpu", "board"]


class StageTimes(StrictDocument):
    """Median times of the parts of a frame's way, in ms, over the timed runs."""

    before_ms: float
    """Checking, padding, converting to what the network takes."""
    network_ms: float
    after_ms: float
    """Converting back and cutting off the padding."""


class MachineConditions(StrictDocument):
    """What the machine was like at one moment; None where it does not tell."""

    load: float | None
    """Runnable processes, mean of the last minute."""
    clock_mhz: float | None
    """Mean over the cores."""
    celsius: float | None
    """The hottest sensor of processor and board."""
    gpu_clock_mhz: float | None = None
    """Mean over the graphics cards."""
    gpu_celsius: float | None = None
    """The hottest card."""


class SustainedPart(StrictDocument):
    """A stretch of a row's run without pause."""

    end_s: float
    """Since the run began."""
    seconds: float
    """How long the part took, reading sensors included."""
    runs: int
    p50_ms: float
    p95_ms: float
    end: MachineConditions
    joules: dict[MeterKind, float] = Field(default_factory=dict)
    """What each meter counted during the part; idle is in it."""


class LatencyTiming(StrictDocument):
    """One row at one frame size."""

    width: int
    height: int
    samples_ms: list[float]
    """Every timed run, in order, from an 8-bit frame to an 8-bit frame."""
    warmup_runs: int
    settled: bool
    """Whether the warm-up ended because the times had settled, not because it was long enough."""
    stages: StageTimes | None = None
    """None where the row cannot tell."""
    cold_start_ms: float | None = None
    """A fresh process: from opening to the first restored frame, the backend's import included."""
    peak_memory_mib: float | None = None
    """The most memory such a process held, Python and its libraries included."""
    sustained: list[SustainedPart] = Field(default_factory=list)
    """A run of minutes, in order; empty where none was asked for."""
    loop: SustainedPart | None = None
    """A run of seconds that energy was counted over; None where there was a longer one, or no
    meter."""

    @property
    def size(self) -> str:
        """Return WIDTHxHEIGHT."""
        return size_text(self.height, self.width)


class ImageQuality(StrictDocument):
    """What a row made of one image."""

    name: str
    brightness: float
    """Mean luma of what went in, from 0 to 1."""
    psnr_db: float | None
    """None: the image came back exactly."""
    psnr_gtmean_db: float | None
    ssim: float | None
    """None: the image is smaller than the window of SSIM."""
    mae: float


class PairSetQuality(StrictDocument):
    """What a row made of one set of pairs."""

    former_keys: ClassVar[dict[str, str]] = {"pictures": "images"}

    pairs: str
    """The name of the set, as in `Report.pair_sets`."""
    images: list[ImageQuality]


class ClipFlicker(StrictDocument):
    """What a row made of one clip."""

    clip: str
    """The name of the clip, as in `Report.clips`."""
    ratio: float | None
    """As `metrics.flicker` defines it; None where it was not measured, or nothing changes."""
    note: str = ""
    """Why it was not measured."""


class ReportRow(StrictDocument):
    """One entry: a mode of a bundle, a competitor, or a classical method."""

    former_keys: ClassVar[dict[str, str]] = {"adopted": "accepted"}

    name: str
    """Unique in the report."""
    kind: Kind
    task: str | None
    backend: str | None
    precision: str | None
    state: State
    note: str = ""
    """Why it is missing or failed; else what a reader must know about it."""
    sha256: str | None = None
    """Of the file that computes: the graph, the weights."""
    bytes_on_disk: int | None = None
    macs_640x480: int | None = None
    accepted: bool | None = None
    """What the bundle's gate said; None where there was no gate."""
    timings: list[LatencyTiming] = Field(default_factory=list)
    quality: list[PairSetQuality] = Field(default_factory=list)
    flicker: list[ClipFlicker] = Field(default_factory=list)


class PairSet(StrictDocument):
    """Images that quality was measured on."""

    former_keys: ClassVar[dict[str, str]] = {"pictures": "images"}

    name: str
    task: str
    images: int
    """How many were measured."""
    unreadable: list[str]
    """One line for each image that could not be measured."""
    sha256: str
    """Over the pixels of all images, in order."""


class ClipFacts(StrictDocument):
    """A video that flicker was measured on."""

    name: str
    frames: int
    width: int
    height: int
    note: str
    """Why no row has a figure on it; empty where some have."""
    sha256: str
    """Over the pixels of all frames, in order."""


class ImageCrop(StrictDocument):
    """A piece of an image, before or after a row, in a file beside the report."""

    former_keys: ClassVar[dict[str, str]] = {"picture": "image"}

    pairs: str
    image: str
    row: str
    """A row's name, or `before` or `reference`."""
    file: str


class BenchmarkSettings(StrictDocument):
    """How the figures were taken."""

    command: str
    suite: str | None
    rounds: int
    row_seconds: float
    """Rows that would take longer at one size run in fewer rounds."""
    threads: int | None
    """None: each backend decides."""
    affinity: list[int] | None
    """The processors this process may use."""
    sustained_minutes: float | None = None
    """How long each chosen row ran without pause; None: not at all."""


class Report(StrictDocument):
    """A whole benchmark."""

    former_versions: ClassVar[tuple[int, ...]] = (1, 2)

    schema_version: Literal[3] = 3
    created: str
    """UTC, ISO 8601."""
    partial: bool
    """The run was interrupted: what had been measured until then is here, the rest is missing."""
    machine: MachineFacts
    revision: str | None
    """The git commit of mirnet-edge, with "+changes" where files differed; None outside git."""
    tools: dict[str, str]
    settings: BenchmarkSettings
    before: MachineConditions
    after: MachineConditions
    meters: dict[MeterKind, str] = Field(default_factory=dict)
    """What counted energy, and what is in its figures, in words."""
    sensor_notes: list[str] = Field(default_factory=list)
    """Why a sensor could not be read, and what to do."""
    rows: list[ReportRow]
    pair_sets: list[PairSet] = Field(default_factory=list)
    clips: list[ClipFacts] = Field(default_factory=list)
    crops: list[ImageCrop] = Field(default_factory=list)

    @property
    def sizes(self) -> list[str]:
        """Return the frame sizes that were timed, in order."""
        return list(dict.fromkeys(timing.size for row in self.rows for timing in row.timings))


def to_json(report: Report) -> bytes:
    """Return the text of a report's file."""
    return (
        json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    ).encode()


def read_report(path: Path) -> Report:
    """Read a report's JSON file.

    Raises:
        DataError: Not there, not a report, or of another schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); expected a report.json of mirnet-bench"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON ({error}); expected a report.json of mirnet-bench"
        ) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version not in _READ or isinstance(version, bool):
        known = " and ".join(map(str, _READ))
        raise DataError(
            f"{path} has schema version {version!r}; this program reads {known}. "
            "Measure again, or compare with the mirnet-edge that wrote it"
        )
    try:
        # what came with 2 has defaults that say "not measured"
        return Report.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}; measure again") from error
