"""ONNX Runtime sessions: optimized less where a kernel fails, with buffers on a device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

PROVIDER = "CPUExecutionProvider"
"""The execution provider of the processor."""

# exceptions of a kernel that failed; InvalidArgument and others are the caller's
_KERNEL_FAILED = {"Fail", "RuntimeException", "NotImplemented", "EPFail"}
_WITHOUT_LAYOUTS, _ONLY_BASIC = "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC"
_FATAL_ONLY = 4


def open_on_processor(model: str | bytes, options: Any) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
    """Return a session of a model, its file's name or its content, on the processor."""
    import onnxruntime

    return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])


class DeviceBuffers:
    """A session's inputs and outputs in a device's memory: allocated once for each set of sizes.

    A run copies the frame to the buffer and the result back; nothing else crosses, and nothing is
    allocated.
    """

    def __init__(self, session: Any, device: str) -> None:  # noqa: ANN401  # ONNX Runtime has no types
        """Bind a session.

        Args:
            session: ONNX Runtime's InferenceSession.
            device: As ONNX Runtime calls it: cpu, cuda, dml.
        """
        self._session, self._device = session, device
        self._binding = session.io_binding()
        self._inputs: dict[str, Any] = {}

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Return the values of all outputs, which belong to the caller.

        Raises:
            Exception: ONNX Runtime's.
        """
        import onnxruntime

        for name, value in feed.items():
            buffer = self._inputs.get(name)
            if buffer is not None and tuple(buffer.shape()) == value.shape:
                buffer.update_inplace(value)
                continue
            self._inputs[name] = onnxruntime.OrtValue.ortvalue_from_numpy(value, self._device, 0)
            self._binding.bind_ortvalue_input(name, self._inputs[name])
            for output in self._session.get_outputs():  # of another size now
                self._binding.bind_output(output.name, self._device, 0)
        self._session.run_with_iobinding(self._binding)
        return [one.numpy() for one in self._binding.get_outputs()]


class OnnxSession:
    """A session whose optimization level is lowered from the first run on that fails in a kernel.

    ONNX Runtime's highest level replaces the graph's operators by its own, made for the processor.
    Where they fail on inputs of a size that never ran, the levels EXTENDED (without them) and BASIC
    are tried in turn; the first that runs is kept for all later runs.
    """

    def __init__(
        self,
        model: str | bytes,
        options: Any,  # noqa: ANN401  # ONNX Runtime has no types
        *,
        name: str,
        opener: Callable[[str | bytes, Any], Any] = open_on_processor,
        buffers: str | None = None,
    ) -> None:
        """Open a model.

        Args:
            model: The file's name, or its content.
            options: ONNX Runtime's SessionOptions; owned by the session from now on. Its own log
                is off: errors are raised.
            name: Of the model, in the warning.
            opener: Returns ONNX Runtime's session of a model and options.
            buffers: The device whose memory inputs and outputs are kept in, for `DeviceBuffers`;
                None where ONNX Runtime copies them.
        """
        self._model, self._options, self._name = model, options, name
        self._opener, self._device = opener, buffers
        options.log_severity_level = _FATAL_ONLY
        self._session = opener(model, options)
        self._buffers = self._bind(self._session)
        self._tested: set[tuple[tuple[int, ...], ...]] = set()  # sizes that ran, or never will

    def get_inputs(self) -> list[Any]:
        """Return ONNX Runtime's descriptions of the inputs."""
        return list(self._session.get_inputs())

    @property
    def native(self) -> Any:  # noqa: ANN401  # ONNX Runtime has no types
        """Return ONNX Runtime's own session, which a lower optimization level replaces."""
        return self._session

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
            given = self._run(self._session, self._buffers, outputs, feed)
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
                session = self._opener(self._model, self._options)
                buffers = self._bind(session)
                given = self._run(session, buffers, outputs, feed)
            except Exception:  # noqa: BLE001  # ONNX Runtime has a dozen kinds; the first is raised
                continue
            logger.warning(
                "%s: expected it to run as ONNX Runtime optimizes it at %s, found: %s; it runs at "
                "%s from now on, which may be slower",
                self._name, failed.name, " ".join(str(error).split())[:300], name,
            )  # fmt: skip
            self._session, self._buffers = session, buffers
            self._tested.clear()
            return given
        self._options.graph_optimization_level = failed
        return None

    def _bind(self, session: Any) -> DeviceBuffers | None:  # noqa: ANN401  # ONNX Runtime has no types
        return None if self._device is None else DeviceBuffers(session, self._device)

    @staticmethod
    def _run(
        session: Any,  # noqa: ANN401  # ONNX Runtime has no types
        buffers: DeviceBuffers | None,
        outputs: Sequence[str] | None,
        feed: Mapping[str, NDArray[Any]],
    ) -> list[Any]:
        if buffers is not None and outputs is None:
            return buffers.run(feed)
        given: list[Any] = session.run(outputs, feed)
        return given
