"""ONNX Runtime's sessions on the processor; one that fails to run is optimized less."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

PROVIDER = "CPUExecutionProvider"
"""The execution provider of every session."""

# what a run raises that a kernel failed in; InvalidArgument and others are the caller's
_KERNEL_FAILED = {"Fail", "RuntimeException", "NotImplemented", "EPFail"}
_WITHOUT_LAYOUTS, _ONLY_BASIC = "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC"
_FATAL_ONLY = 4


class OnnxSession:
    """A session whose graph is optimized less from the first run on that fails in a kernel.

    ONNX Runtime's highest level puts operators of its own, made for the processor at hand, in place
    of the graph's. Where they fail on values of sizes that were never run, the levels EXTENDED
    (without them) and BASIC are tried in turn; the first that runs is kept for all later runs.
    """

    def __init__(self, model: str | bytes, options: Any, *, name: str) -> None:  # noqa: ANN401  # ONNX Runtime has no types
        """Open a model.

        Args:
            model: The file's name, or its content.
            options: ONNX Runtime's SessionOptions; they belong to the session from now on. It logs
                nothing itself: what is wrong is raised.
            name: How the warning calls it.
        """
        self._model, self._options, self._name = model, options, name
        options.log_severity_level = _FATAL_ONLY
        self._session = self._opened()
        self._settled: set[tuple[tuple[int, ...], ...]] = set()  # sizes that ran, or never will

    def get_inputs(self) -> list[Any]:
        """Return what the graph takes, as ONNX Runtime tells it."""
        return list(self._session.get_inputs())

    def get_session_options(self) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
        """Return the options that are in force."""
        return self._session.get_session_options()

    def run(self, outputs: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Return the values of the outputs named, or of all.

        Raises:
            Exception: What ONNX Runtime raises; of several levels, what the first raised.
        """
        sizes = tuple(value.shape for value in feed.values())
        try:
            given: list[Any] = self._session.run(outputs, feed)
        except Exception as error:
            if sizes in self._settled or type(error).__name__ not in _KERNEL_FAILED:
                raise
            found = self._run_on_lower_levels(outputs, feed, error)
            self._settled.add(sizes)
            if found is None:
                raise
            return found
        self._settled.add(sizes)
        return given

    def _run_on_lower_levels(
        self, outputs: Sequence[str] | None, feed: Mapping[str, NDArray[Any]], error: Exception
    ) -> list[Any] | None:
        """Return what the first lower level gives that runs, and stay there; None without one."""
        from onnxruntime import GraphOptimizationLevel

        failed = self._options.graph_optimization_level
        for name in (_WITHOUT_LAYOUTS, _ONLY_BASIC):
            level = getattr(GraphOptimizationLevel, name)
            if int(level) >= int(failed):
                continue
            self._options.graph_optimization_level = level
            try:
                session = self._opened()
                given: list[Any] = session.run(outputs, feed)
            except Exception:  # noqa: BLE001  # ONNX Runtime has a dozen kinds; the first is told
                continue
            logger.warning(
                "%s: expected it to run as ONNX Runtime optimizes it at %s, found: %s; it runs at "
                "%s from now on, which may be slower",
                self._name, failed.name, " ".join(str(error).split())[:300], name,
            )  # fmt: skip
            self._session = session
            self._settled.clear()
            return given
        self._options.graph_optimization_level = failed
        return None

    def _opened(self) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
        import onnxruntime

        return onnxruntime.InferenceSession(self._model, self._options, providers=[PROVIDER])
