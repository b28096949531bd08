"""The benchmark report's schema (`report.json`), reading and writing it.

A value that was not measured is None, null in JSON; never zero. All raw latency samples are kept;
medians and stability are computed from them when a report is shown. Of sustained runs, which have
too many samples, the statistics of each part are kept.

Schema history: 1 (2026-11) the first; 2 (2026-11) sustained runs, energy and GPU clocks;
3 (2026-11) keys and the kind `competitor` renamed. Versions 1 and 2 are still read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator

from mirnet_edge.errors import DataError
from mirnet_edge.images.contract import size_text
from mirnet_edge.manifest import MachineFacts, StrictDocument

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 3
NOT_MEASURED = "not measured"

EntryKind = Literal["bundle", "competitor", "baseline", "random weights"]
EntryState = Literal["measured", "missing", "failed"]
MeterKind = Literal["package", "gpu", "board"]


class StageTimes(StrictDocument):
    """Median latency of each stage of a run, in ms."""

    former_keys: ClassVar[dict[str, str]] = {
        "before_ms": "preprocess_ms", "network_ms": "inference_ms", "after_ms": "postprocess_ms",
    }  # fmt: skip

    preprocess_ms: float
    """Checking, padding and converting the frame to the network's input."""
    inference_ms: float
    postprocess_ms: float
    """Converting the network's output to a frame and cropping the padding."""


class MachineConditions(StrictDocument):
    """Load, clocks and temperatures at one moment; None where they cannot be read."""

    load: float | None
    """Runnable processes, mean of the last minute (load average)."""
    clock_mhz: float | None
    """Mean over the cores."""
    celsius: float | None
    """Highest temperature of processor and board."""
    gpu_clock_mhz: float | None = None
    """Mean over the GPUs."""
    gpu_celsius: float | None = None
    """Highest temperature of the GPUs."""


class SustainedPart(StrictDocument):
    """Statistics of one part of a sustained run."""

    former_keys: ClassVar[dict[str, str]] = {
        "seconds": "duration_s", "end": "conditions", "joules": "energy_j",
    }  # fmt: skip

    end_s: float
    """Since the start of the run."""
    duration_s: float
    """Reading sensors included."""
    runs: int
    p50_ms: float
    p95_ms: float
    conditions: MachineConditions
    """At the end of the part."""
    energy_j: dict[MeterKind, float] = Field(default_factory=dict)
    """Energy during the part by meter, idle power included."""


class LatencyTiming(StrictDocument):
    """Latency of one entry at one frame size."""

    former_keys: ClassVar[dict[str, str]] = {"loop": "energy_run"}

    width: int
    height: int
    samples_ms: list[float]
    """Every timed run, in order, from an 8-bit frame to an 8-bit frame."""
    warmup_runs: int
    settled: bool
    """Whether the latency was steady when the warm-up ended."""
    stages: StageTimes | None = None
    """None where the runner does not time its stages."""
    cold_start_ms: float | None = None
    """Of a fresh process, from opening to the first restored frame, imports included."""
    peak_memory_mib: float | None = None
    """Of that process, Python and its libraries included."""
    sustained: list[SustainedPart] = Field(default_factory=list)
    """Parts of the sustained run, in order; empty where there was none."""
    placement: str = ""
    """What computed it, as the backend told: devices, and their nodes; empty where it does not."""
    energy_run: SustainedPart | None = None
    """A run of seconds over which energy was measured; None after a sustained run, or without an
    energy meter."""

    @property
    def size(self) -> str:
        """WIDTHxHEIGHT."""
        return size_text(self.height, self.width)


class ImageQuality(StrictDocument):
    """Quality metrics of one restored image."""

    name: str
    brightness: float
    """Mean luma of the input, from 0 to 1."""
    psnr_db: float | None
    """None: output and ground truth are identical."""
    psnr_gtmean_db: float | None
    ssim: float | None
    """None: the image is smaller than the SSIM window."""
    mae: float


class PairSetQuality(StrictDocument):
    """Quality metrics of one entry on one pair set."""

    former_keys: ClassVar[dict[str, str]] = {"pictures": "images"}

    pairs: str
    """Name of the pair set, as in `Report.pair_sets`."""
    images: list[ImageQuality]


class ClipFlicker(StrictDocument):
    """Flicker of one entry on one clip."""

    clip: str
    """Name of the clip, as in `Report.clips`."""
    ratio: float | None
    """Output over source, see `metrics.flicker`; None where not measured or not defined."""
    note: str = ""
    """Why it was not measured."""


FORMER_VALUES = {"rival": "competitor", "histogram equalisation": "histogram equalization"}
"""Kinds and names of entries as reports and options of older versions have them."""


class ReportRow(StrictDocument):
    """Results of one entry: a configuration of a bundle, a competitor model or a baseline."""

    former_keys: ClassVar[dict[str, str]] = {"adopted": "accepted"}

    name: str
    """Unique in the report."""
    kind: EntryKind
    task: str | None
    backend: str | None
    precision: str | None
    state: EntryState
    note: str = ""
    """Why it is missing or failed, or a remark."""
    sha256: str | None = None
    """Of the graph or the weights."""
    bytes_on_disk: int | None = None
    macs_640x480: int | None = None
    accepted: bool | None = None
    """By the bundle's quality gate; None where there was no gate."""
    timings: list[LatencyTiming] = Field(default_factory=list)
    quality: list[PairSetQuality] = Field(default_factory=list)
    flicker: list[ClipFlicker] = Field(default_factory=list)

    @field_validator("kind", "name", mode="before")
    @classmethod
    def _read_former_value(cls, value: object) -> object:
        return FORMER_VALUES.get(value, value) if isinstance(value, str) else value


class PairSet(StrictDocument):
    """Image pairs that quality was measured on."""

    former_keys: ClassVar[dict[str, str]] = {"pictures": "images"}

    name: str
    task: str
    images: int
    """Number of measured pairs."""
    unreadable: list[str]
    """One line for each image that could not be measured."""
    sha256: str
    """Over the pixels of all images, in order."""


class ClipFacts(StrictDocument):
    """A clip that flicker was measured on."""

    name: str
    frames: int
    width: int
    height: int
    note: str
    """Why flicker is not defined on it, or empty."""
    sha256: str
    """Over the pixels of all frames, in order."""


class ImageCrop(StrictDocument):
    """A cropped input, output or ground truth, in a file beside the report."""

    former_keys: ClassVar[dict[str, str]] = {"picture": "image"}

    pairs: str
    image: str
    row: str
    """Name of the entry, or `before` or `reference`."""
    file: str


class BenchmarkSettings(StrictDocument):
    """Options of the benchmark run."""

    command: str
    suite: str | None
    rounds: int
    row_seconds: float
    """Time limit of an entry at one size; slower entries run in fewer rounds."""
    threads: int | None
    """None: each backend's default."""
    affinity: list[int] | None
    """CPU cores this process may use; None where the system has no affinity."""
    sustained_minutes: float | None = None
    """Duration of each sustained run; None: there was none."""


class Report(StrictDocument):
    """A benchmark report."""

    former_keys: ClassVar[dict[str, str]] = {
        "before": "conditions_before", "after": "conditions_after", "tools": "versions",
    }  # fmt: skip
    former_versions: ClassVar[tuple[int, ...]] = (1, 2)

    schema_version: Literal[3] = 3
    created: str
    """UTC, ISO 8601."""
    partial: bool
    """Whether the run was interrupted; what it had measured until then is here."""
    machine: MachineFacts
    revision: str | None
    """Git commit of mirnet-edge, with "+changes" where files differed; None outside git."""
    versions: dict[str, str]
    """Version of each library."""
    settings: BenchmarkSettings
    conditions_before: MachineConditions
    conditions_after: MachineConditions
    meters: dict[MeterKind, str] = Field(default_factory=dict)
    """Energy meters, and the parts of the machine that each one measures."""
    sensor_notes: list[str] = Field(default_factory=list)
    """Why a sensor could not be read, and what to do."""
    rows: list[ReportRow]
    pair_sets: list[PairSet] = Field(default_factory=list)
    clips: list[ClipFacts] = Field(default_factory=list)
    crops: list[ImageCrop] = Field(default_factory=list)

    @property
    def sizes(self) -> list[str]:
        """Frame sizes that were timed, in order."""
        return list(dict.fromkeys(timing.size for row in self.rows for timing in row.timings))


def to_json(report: Report) -> bytes:
    """Return the content of a report's JSON file."""
    return (report.model_dump_json(indent=1) + "\n").encode()


def read_report(path: Path) -> Report:
    """Return the report of a JSON file, of this or a former schema version.

    Raises:
        DataError: The file cannot be read, is not a report, or has an unknown schema version.
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
    known = (*Report.former_versions, SCHEMA_VERSION)
    if version not in known or isinstance(version, bool):
        raise DataError(
            f"{path} has schema version {version!r}; expected {' or '.join(map(str, known))}. "
            "Measure again, or compare with the mirnet-edge version that wrote it"
        )
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path} is not a report: {where}: {first['msg']}; measure again"
        ) from error
