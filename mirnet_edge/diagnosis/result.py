"""The diagnosis of an image or video, and the tasks that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.diagnosis.labels import FINE, LABELS, THRESHOLD
from mirnet_edge.images.contract import size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirnet_edge.diagnosis.labels import Label, TopLabel

SMALL_SIDE = 320
"""An image whose long side has at most so many pixels is small: its low-resolution score is 1."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with an image, or with a video by several of its frames."""

    scores: Mapping[Label, float]
    """Of each label, from 0 to 1; of several frames the median."""
    sigma: float
    """Standard deviation of the noise in 8-bit levels, estimated; it means something only where
    the label noisy holds."""
    height: int
    width: int
    frames: int = 1
    """How many frames were looked at."""

    @property
    def is_small(self) -> bool:
        """Return whether the image has so few pixels that super-resolution is worth it."""
        return max(self.height, self.width) <= SMALL_SIDE

    @property
    def labels(self) -> tuple[Label, ...]:
        """Return the labels that hold, the highest score first; none of a fine image.

        Being small comes last: it is counted, not estimated, and says nothing of how bad it is.
        """
        held = [label for label in LABELS if self.scores[label] >= THRESHOLD]
        return tuple(sorted(held, key=self._rank))

    @property
    def top_label(self) -> TopLabel:
        """Return the first of the labels, or fine where none holds."""
        return self.labels[0] if self.labels else FINE

    @property
    def fine_score(self) -> float:
        """Return how sure it is that nothing is wrong: 1 less the highest score."""
        return 1.0 - max(self.scores.values())

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that restore it, in their order; none of a fine image.

        Low light and old prints both get another exposure and other colors, so that only the one
        with the higher score is restored. Both of their networks remove noise too: denoising is
        for images with nothing else. Pixels are added last, to what the others have cleaned. An
        image that is blurred but not small is left alone: no network here sharpens.
        """
        found: list[str] = []
        print_score = max(self.scores["faded"], self.scores["scratched"])
        if max(print_score, self.scores["dark"]) >= THRESHOLD:
            found.append("low-light" if self.scores["dark"] > print_score else "old-photo")
        elif self.scores["noisy"] >= THRESHOLD:
            found.append("denoise")
        if self.is_small:
            found.append("super-resolution")
        return tuple(found)

    def describe(self) -> str:
        """Return what was found and is to be done, in one line."""
        done = ", then ".join(self.tasks) if self.tasks else "left as it is"
        if not self.labels:
            return f"fine ({self.fine_score:.2f}): {done}"
        return f"{', '.join(map(self._describe_label, self.labels))}: {done}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with scores, labels and tasks."""
        return {
            "top_label": self.top_label,
            "labels": list(self.labels),
            "scores": {
                **{label: round(score, 4) for label, score in self.scores.items()},
                FINE: round(self.fine_score, 4),
            },
            "sigma": round(self.sigma, 2) if "noisy" in self.labels else None,
            "width": self.width,
            "height": self.height,
            "frames": self.frames,
            "tasks": list(self.tasks),
        }

    def _rank(self, label: Label) -> float:
        return 0.0 if label == "low-resolution" and self.is_small else -self.scores[label]

    def _describe_label(self, label: Label) -> str:
        if label == "noisy":
            return f"noisy sigma {self.sigma:.0f}"
        if label == "low-resolution":
            if self.is_small:
                return f"small {size_text(self.height, self.width)}"
            return f"blurred ({self.scores[label]:.2f})"
        return f"{label} ({self.scores[label]:.2f})"
