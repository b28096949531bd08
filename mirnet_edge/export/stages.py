"""Remember the finished stages of an export in its folder, so that a killed one is resumed.

A stage is a name, a value and the files it wrote. The record names the inputs of the export by a
key: weights, images, options, versions and machine. An export with the same key takes over the
folder that a killed one left and makes what is missing; any other begins anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from mirnet_edge.files import replace_folder, sha256_of, write_atomically
from mirnet_edge.manifest import StrictDocument
from mirnet_edge.memory import release_memory
from mirnet_edge.runtime import machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mirnet_edge.calibration.sets import CalibrationSet
    from mirnet_edge.export.workspace import ExportOptions

FOLDER = "unfinished"
"""Inside the bundle's folder while it is made: the record, and what no bundle keeps."""
_RECORD = "stages.json"
_Value = TypeVar("_Value")


class Recall(Protocol):
    """Returns the value of a finished stage, or makes it: see `StageLog.run`."""

    def __call__(  # noqa: D102  # above
        self,
        name: str,
        kind: Any,  # noqa: ANN401  # what pydantic takes for a type
        make: Callable[[], Any],
        files: Sequence[str] = (),
    ) -> Any: ...  # noqa: ANN401  # of that type


def make_anew(
    name: str,
    kind: Any,  # noqa: ANN401  # as Recall
    make: Callable[[], Any],
    files: Sequence[str] = (),
) -> Any:  # noqa: ANN401  # as Recall
    """Return what MAKE makes: a `Recall` without memory."""
    del name, kind, files
    return make()


OnStep = Callable[[int, int], None]
"""Takes the number of steps of a stage that are done, and that of all."""


class StageFacts(StrictDocument):
    """A finished stage: its value, and the files it wrote by their SHA-256."""

    value: JsonValue
    files: dict[str, str] = Field(default_factory=dict)


class StageRecord(StrictDocument):
    """The finished stages of an export. Schema history: 1 (2026-11) the first."""

    schema_version: Literal[1] = 1
    key: str
    stages: dict[str, StageFacts] = Field(default_factory=dict)


@dataclass
class StageLog:
    """The finished stages of the export in one folder."""

    folder: Path
    """The bundle's folder while it is made."""
    record: StageRecord

    @property
    def resumed(self) -> tuple[str, ...]:
        """Return the names of the finished stages."""
        return tuple(self.record.stages)

    def run(
        self,
        name: str,
        kind: Any,  # noqa: ANN401  # what pydantic takes for a type, unions and aliases too
        make: Callable[[], _Value],
        files: Sequence[str] = (),
    ) -> _Value:
        """Return the value of a finished stage, or make, record and return it.

        Args:
            name: Of the stage, unique in the export.
            kind: The value's type, as pydantic takes it.
            make: Makes the value, and the files.
            files: What it writes, relative to the folder. A stage is finished only where they are
                there and unchanged.
        """
        adapter: TypeAdapter[_Value] = TypeAdapter(kind)
        known = self.record.stages.get(name)
        if known is not None and set(known.files) == set(files) and self._are_unchanged(known):
            return adapter.validate_python(known.value)
        value = make()
        release_memory()  # a full network's stages need gigabytes each
        self.record.stages[name] = StageFacts(
            value=adapter.dump_python(value, mode="json"),
            files={file: sha256_of(self.folder / file) for file in files},
        )
        # Python's own JSON: a PSNR may be infinite, which pydantic would write as null
        text = json.dumps(self.record.model_dump(), indent=1)
        write_atomically(self.folder / FOLDER / _RECORD, text.encode())
        return value

    def _are_unchanged(self, stage: StageFacts) -> bool:
        files = {name: self.folder / name for name in stage.files}
        return all(
            path.is_file() and sha256_of(path) == stage.files[name] for name, path in files.items()
        )

    def path(self, file: str) -> Path:
        """Return the path of a file that is needed until the export ends."""
        return self.folder / FOLDER / file

    def finish(self) -> None:
        """Remove what no bundle keeps."""
        shutil.rmtree(self.folder / FOLDER)


@contextmanager
def resume_stages(out: Path, key: str) -> Iterator[StageLog]:
    """Yield the log of a folder that becomes OUT at the end of the block.

    A folder that a killed export with the same key left is taken over; the others are removed.

    Raises:
        MirnetEdgeError: As `files.replace_folder`.
    """

    def is_resumable(folder: Path) -> bool:
        found = _read_record(folder)
        return found is not None and found.key == key

    with replace_folder(out, is_resumable) as folder:
        (folder / FOLDER).mkdir(exist_ok=True)
        log = StageLog(folder, _read_record(folder) or StageRecord(key=key))
        yield log
        log.finish()


def _read_record(folder: Path) -> StageRecord | None:
    """Return the record in a folder; None without one, or where it cannot be read."""
    try:
        text = (folder / FOLDER / _RECORD).read_text(encoding="utf-8")
        return StageRecord.model_validate(json.loads(text))
    except (OSError, ValueError, ValidationError):
        return None  # the export begins anew, as without a record


def key_of(options: ExportOptions, weights_sha256: str, images: CalibrationSet) -> str:
    """Return what an export's results depend on, as one SHA-256."""
    frames = hashlib.sha256()
    for sample in images.evaluation:
        for frame in (sample.frame, sample.reference):
            frames.update(b"none" if frame is None else frame.tobytes())
    facts = {
        "options": {name: str(value) for name, value in asdict(options).items()},
        "weights": weights_sha256,
        "calibration": images.sha256,
        "evaluation": frames.hexdigest(),
        "ranges": _hash_ranges(images),
        "tools": machine.tool_versions(),
        "machine": machine.describe().model_dump(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _hash_ranges(images: CalibrationSet) -> str | None:
    """Return the SHA-256 of the calibrated ranges beside the images, which an export uses."""
    from mirnet_edge.quantization.ranges import RANGES_FILE

    file = None if images.folder is None else images.folder / RANGES_FILE
    return sha256_of(file) if file is not None and file.is_file() else None
