"""The files of `mirnet restore`: what became of each, in lines as it happens and as JSON."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mirnet_edge.cli.application import print_error
from mirnet_edge.errors import MirnetEdgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirnet_edge.runtime.inputs import InputFiles

logger = logging.getLogger(__name__)

Outcome = Literal["restored", "unchanged", "failed", "skipped", "left out"]
"""`unchanged`: it is good as it is, and was copied to `--out`, if given. `skipped`: its result was
there. `left out`: a file of a folder that is no input."""

_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class FileOutcome:
    """What became of one file."""

    path: Path
    outcome: Outcome
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of the result, as `--json` shows them."""

    def to_json(self) -> dict[str, Any]:
        """Return the file's entry in the `--json` document."""
        entry: dict[str, Any] = {"input": str(self.path), "outcome": self.outcome}
        if self.reason:
            entry["reason"] = self.reason
        return entry | self.facts


class RestorationBatch:
    """Collects the outcomes of all files of a run and prints them as they come."""

    def __init__(self, show: Callable[[str], None]) -> None:
        """Begin without outcomes.

        Args:
            show: Prints a line on stderr, below which a progress bar may be.
        """
        self._show = show
        self.outcomes: dict[Path, FileOutcome] = {}

    def add_done(
        self, path: Path, lines: Iterable[str], facts: dict[str, Any], *, unchanged: bool = False
    ) -> None:
        """Add a file whose result is written."""
        outcome: Outcome = "unchanged" if unchanged else "restored"
        self.outcomes[path] = FileOutcome(path=path, outcome=outcome, facts=facts)
        for line in lines:
            self._show(line)

    def add_comparison(self, path: Path, comparison: Path, size: str) -> None:
        """Add the comparison that is written of a file whose outcome is known."""
        self.outcomes[path].facts["comparison"] = str(comparison)
        self._show(f"{comparison}  {size}  before and after")

    def add_failed(self, path: Path, error: Exception) -> None:
        """Add a file that could not be restored, whatever the error."""
        reason = describe_failure(path, error)
        self.outcomes[path] = FileOutcome(path=path, outcome="failed", reason=reason)
        print_error(reason)

    def add_skipped(self, path: Path, output: Path) -> None:
        """Add a file whose result is there already."""
        self.outcomes[path] = FileOutcome(
            path=path, outcome="skipped", reason=f"{output} is there already"
        )

    def add_left_out(self, found: InputFiles) -> None:
        """Add the files of folders that are no inputs, and print one line for each folder."""
        for one in found.left_out:
            self.outcomes[one.path] = FileOutcome(
                path=one.path, outcome="left out", reason=one.reason
            )
        for line in left_out_lines(found):
            print_error(line)

    def result_of(self, path: Path) -> Path | None:
        """Return the result of a file that was restored; None of every other."""
        one = self.outcomes.get(path)
        return Path(one.facts["output"]) if one and one.outcome == "restored" else None

    def count(self, outcome: Outcome) -> int:
        """Return how many files have an outcome."""
        return sum(one.outcome == outcome for one in self.outcomes.values())

    def summary(self) -> str:
        """Return in one line how many files have which outcome."""
        counts = Counter(one.outcome for one in self.outcomes.values())
        return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())

    def to_json(self, order: Iterable[Path]) -> dict[str, Any]:
        """Return the `--json` document.

        Args:
            order: The inputs in the order in which they were found; files left out follow.
        """
        inputs = [path for path in order if path in self.outcomes]
        others = [path for path in self.outcomes if path not in set(inputs)]
        return {
            "files": [self.outcomes[path].to_json() for path in (*inputs, *others)],
            "counts": dict(Counter(one.outcome for one in self.outcomes.values())),
        }


def describe_failure(path: Path, error: Exception) -> str:
    """Return in one line why a file was not restored; the file is named."""
    logger.debug("%s was not restored", path, exc_info=error)
    text = " ".join(str(error).split())
    if isinstance(error, MirnetEdgeError):
        return text if str(path) in text or path.name in text else f"{path}: {text}"
    if isinstance(error, MemoryError):
        return (
            f"{path} was not restored: the memory does not suffice. Restore it in tiles: "
            "--tile 512x512"
        )
    if isinstance(error, OSError):
        return f"{path} was not restored: {error.strerror or text or type(error).__name__}"
    return (
        f"{path} was not restored: {type(error).__name__}: {text}. This is a fault of mirnet-edge; "
        "-vv prints where"
    )


def left_out_lines(found: InputFiles) -> list[str]:
    """Return a line for each folder of which files are left out: their names, by reason."""
    lines = []
    remaining = list(found.left_out)
    for folder in (*found.folders, None):  # those named themselves come last
        own = [one for one in remaining if folder is None or one.path.is_relative_to(folder)]
        remaining = [one for one in remaining if one not in own]
        by_reason: dict[str, list[str]] = {}
        for one in own:
            name = one.path.relative_to(folder) if folder else one.path
            by_reason.setdefault(one.reason, []).append(str(name))
        parts = [f"{_list_names(names)} ({reason})" for reason, names in by_reason.items()]
        if parts:
            where = f"{folder}: " if folder else ""
            lines.append(f"{where}left out {'; '.join(parts)}")
    return lines


def _list_names(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
