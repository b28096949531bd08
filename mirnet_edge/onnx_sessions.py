"""ONNX Runtime sessions on the processor, optimized less where a kernel fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

PROVIDER = "CPUExecutionProvider"
"""The execution provider of every session."""

# exceptions of a kernel that failed; InvalidArgument and others are the caller's
_KERNEL_FAILED = {"Fail", "RuntimeException", "NotImplemented", "EPFail"}
_WITHOUT_LAYOUTS, _ONLY_BASIC = "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC"
_FATAL_ONLY = 4


class OnnxSession:
    """A session whose optimization level is lowered from the first run on that fails in a kernel.

    ONNX Runtime's highest level replaces the graph's operators by its own, made for the processor.
    Where they fail on inputs of a size that never ran, the levels EXTENDED (without them) and BASIC
    are tried in turn; the first that runs is kept for all later runs.
    """

    def __init__(self, model: str | bytes, options: Any, *, name: str) -> None:  # noqa: ANN401  # ONNX Runtime has no types
        """Open a model.

        Args:
            model: The file's name, or its content.
            options: ONNX Runtime's SessionOptions; owned by the session from now on. Its own log
                is off: errors are raised.
            name: Of the model, in the warning.
        """
        self._model, self._options, self._name = model, options, name
        options.log_severity_level = _FATAL_ONLY
        self._session = self._open_session()
        self._tested: set[tuple[tuple[int, ...], ...]] = set()  # sizes that ran, or never will

    def get_inputs(self) -> list[Any]:
        """Return ONNX Runtime's descriptions of the inputs."""
        return list(self._session.get_inputs())

    def get_session_options(self) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
        """Return the options in force."""
        return self._session.get_session_options()

    def run(self, outputs: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Return the values of the named outputs, or of all.

        Raises:
            Exception: ONNX Runtime's; of several levels, that of the first.
        """
        sizes = tuple(value.shape for value in feed.values())
        try:
            given: list[Any] = self._session.run(outputs, feed)
        except Exception as error:
            if sizes in self._tested or type(error).__name__ not in _KERNEL_FAILED:
                raise
            found = self._run_on_lower_levels(outputs, feed, error)
            self._tested.add(sizes)
            if found is None:
                raise
            return found
        self._tested.add(sizes)
        return given

    def _run_on_lower_levels(
        self, outputs: Sequence[str] | None, feed: Mapping[str, NDArray[Any]], error: Exception
    ) -> list[Any] | None:
        """Return the outputs at the first lower level that runs, and keep that level; else None."""
        from onnxruntime import GraphOptimizationLevel

        failed = self._options.graph_optimization_level
        for name in (_WITHOUT_LAYOUTS, _ONLY_BASIC):
            level = getattr(GraphOptimizationLevel, name)
            if int(level) >= int(failed):
                continue
            self._options.graph_optimization_level = level
            try:
                session = self._open_session()
                given: list[Any] = session.run(outputs, feed)
            except Exception:  # noqa: BLE001  # ONNX Runtime has a dozen kinds; the first is raised
                continue
            logger.warning(
                "%s: expected it to run as ONNX Runtime optimizes it at %s, found: %s; it runs at "
                "%s from now on, which may be slower",
                self._name, failed.name, " ".join(str(error).split())[:300], name,
            )  # fmt: skip
            self._session = session
            self._tested.clear()
            return given
        self._options.graph_optimization_level = failed
        return None

    def _open_session(self) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
        import onnxruntime

        return onnxruntime.InferenceSession(self._model, self._options, providers=[PROVIDER])
